"""What a training run will cost, before it starts: nothing is allocated, no image is read."""

from dataclasses import dataclass

import torch

from ulzoo.contract import Stage
from ulzoo.processes import Processes
from ulzoo.registry.components import DATASETS
from ulzoo.registry.schema import Spec
from ulzoo.registry.summary import Summary, summarize
from ulzoo.training import config as configs
from ulzoo.training.precision import has_bf16


@dataclass(frozen=True)
class StagePlan:
    """One stage in numbers.

    Attributes:
        steps, batch_size: of the spec; their product is `images`.
        asked, used: precision in the spec, and what this device will compute in.
        flops_per_image: of training, forward and backward.
        memory_bytes: estimated peak of one step in each process.
    """

    stage: Stage
    steps: int
    batch_size: int
    asked: str
    used: str
    flops_per_image: int
    memory_bytes: int

    @property
    def images(self) -> int:
        return self.steps * self.batch_size

    @property
    def flops(self) -> int:
        return self.images * self.flops_per_image


@dataclass(frozen=True)
class Plan:
    """A training run in numbers: the spec's summary and each stage's share."""

    summary: Summary
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
    shards = processes if spec.train.parallel and spec.train.parallel.kind == "fsdp" else 1
    planned = []
    for name in spec.asked_stages(stage):
        config: configs.Stage = getattr(spec.train, name)
        used = config.precision if has_bf16(device) else "fp32"
        try:
            part = Processes(count=processes).share(config.batch_size, config.accumulate) // config.accumulate
        except ValueError as error:
            raise spec.error(f"train.{name}.batch_size", str(error)) from None
        memory = summary.memory_bytes(name, part, used == "bf16", shards)
        flops = summary.training_flops(name)
        planned.append(StagePlan(name, config.steps, config.batch_size, config.precision, used, flops, memory))
    return Plan(summary, tuple(planned))


def count_images(spec: Spec) -> int:
    """How many training images the spec's data has, without reading or downloading any.

    Raises:
        ValueError: the data is not at hand.
    """
    idle = {key: False for key in ("verify", "skip_unreadable", "download") if hasattr(spec.data, key)}
    return len(DATASETS.build(spec.data.model_copy(update=idle), "train"))
