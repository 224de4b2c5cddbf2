"""What a training run will cost, before it starts: nothing is allocated, no image is read."""

from dataclasses import dataclass
from functools import cached_property

import torch

from ulzoo.model.contract import Stage
from ulzoo.registry.cost.memory import StepMemory, step_memory
from ulzoo.registry.cost.summary import ModelSummary, summarize
from ulzoo.registry.spec.components import DATASETS
from ulzoo.registry.spec.schema import Spec
from ulzoo.runtime.devices import device_memory, has_bf16
from ulzoo.runtime.processes import ProcessGroup
from ulzoo.training import config as configs

ROOM = 0.9
"""Share of a device's memory that tensors may take; the rest is for kernels, their workspaces and fragments."""


@dataclass(frozen=True)
class StagePlan:
    """One stage in numbers.

    Attributes:
        steps, batch_size: of the spec; their product is `images`.
        asked, used: precision in the spec, and what this device will compute in.
        flops_per_image: of training, forward and backward.
        parts: that a batch is computed in, by processes and by accumulation.
        shards: processes that share what is trained among them.
        keeps_gradients: those of an earlier part of the batch, or DDP's, are there all through a step.
    """

    spec: Spec
    stage: Stage
    device: torch.device
    steps: int
    batch_size: int
    asked: str
    used: str
    flops_per_image: int
    parts: int
    shards: int
    keeps_gradients: bool

    @property
    def images(self) -> int:
        return self.steps * self.batch_size

    @property
    def flops(self) -> int:
        return self.images * self.flops_per_image

    @cached_property
    def memory(self) -> StepMemory:
        """Of a step in each process; seconds of work where networks are large."""
        return step_memory(self.spec, self.stage, self.device, self.used == "bf16")

    @property
    def memory_bytes(self) -> int:
        """Estimated peak of one step in each process."""
        return self.memory.peak(self.batch_size // self.parts, self.shards, self.keeps_gradients)

    @property
    def largest_batch(self) -> int:
        """The largest batch that fits into the device's memory in as many parts, by the estimate; 0 if none does."""
        room = int(ROOM * device_memory(self.device))
        return self.parts * self.memory.most_examples(room, self.shards, self.keeps_gradients)


@dataclass(frozen=True)
class Plan:
    """A training run in numbers: the spec's summary and each stage's share."""

    summary: ModelSummary
    stages: tuple[StagePlan, ...]

    @property
    def flops(self) -> int:
        return sum(stage.flops for stage in self.stages)


def plan_training(spec: Spec, stage: str, device: torch.device, processes: int = 1) -> Plan:
    """The plan of `ulzoo train` with this --stage; compiling on `meta` checks that the spec's parts fit.

    Args:
        processes: that train together.

    Raises:
        ValueError: they do not, there is no such stage, or a batch cannot be shared by so many processes.
    """
    summary = summarize(spec)
    sharded = processes > 1 and spec.train.parallel is not None and spec.train.parallel.kind == "fsdp"
    planned = []
    for name in spec.select_stages(stage):
        config: configs.StageConfig = getattr(spec.train, name)
        try:
            ProcessGroup(world_size=processes).local_batch_size(config.batch_size, config.accumulate)
        except ValueError as error:
            raise spec.error(f"train.{name}.batch_size", str(error)) from None
        planned.append(
            StagePlan(
                spec,
                name,
                device,
                steps=config.steps,
                batch_size=config.batch_size,
                asked=config.precision,
                used=config.precision if has_bf16(device) else "fp32",
                flops_per_image=summary.training_flops(name),
                parts=processes * config.accumulate,
                shards=processes if sharded else 1,
                keeps_gradients=config.accumulate > 1 or (processes > 1 and not sharded),
            )
        )
    return Plan(summary, tuple(planned))


def count_images(spec: Spec) -> int:
    """How many training images the spec's data has, without reading or downloading any.

    Raises:
        ValueError: the data is not at hand.
    """
    idle = {key: False for key in ("verify", "skip_unreadable", "download") if hasattr(spec.data, key)}
    return len(DATASETS.build(spec.data.model_copy(update=idle), "train"))
