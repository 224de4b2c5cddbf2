"""The plan of a training run: its costs, estimated without allocating memory or reading data."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from ulzoo.model.contract import Stage
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.accelerators import Machines
from ulzoo.registry.cost.collectives import (
    NO_COLLECTIVES,
    Collectives,
    muon_collectives,
    replicated_collectives,
    sharded_collectives,
)
from ulzoo.registry.cost.memory import StepMemory, step_memory
from ulzoo.registry.cost.summary import ModelSummary, summarize
from ulzoo.registry.spec.components import DATASETS
from ulzoo.registry.spec.schema import Spec
from ulzoo.runtime.devices import Precision, device_memory, effective_precision, product_dtype
from ulzoo.runtime.processes import ProcessGroup
from ulzoo.training import config as configs
from ulzoo.training.parametrisation import trained_networks

USABLE_MEMORY = 0.9
"""Share of a device's memory that is available to tensors; kernels, workspaces and fragmentation take the rest."""


@dataclass(frozen=True)
class StagePlan:
    """One stage in numbers.

    Attributes:
        steps, batch_size: of the spec; their product is `images`.
        machines: that the run is planned for; None for the device.
        requested_precision, precision: of the spec, and as supported by the device.
        flops_per_image: of training, forward and backward.
        processes: number of processes that train together.
        parts: number of parts of a batch that are computed separately: processes × accumulation steps.
        shards: number of processes over which FSDP shards the trained weights.
        keeps_gradients: gradients are allocated throughout a step, by DDP or gradient accumulation.
    """

    spec: Spec
    stage: Stage
    device: torch.device
    machines: Machines | None
    steps: int
    batch_size: int
    requested_precision: Precision
    precision: Precision
    flops_per_image: int
    processes: int
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
        """The memory of a step; takes seconds for large networks."""
        return step_memory(self.spec, self.stage, self.device, self.precision == "bf16")

    @cached_property
    def collectives(self) -> Collectives:
        """What a process exchanges with the others in the forward and backward passes of a step."""
        if self.processes == 1:
            return NO_COLLECTIVES
        if self.shards == 1:
            return replicated_collectives(self._networks, self.processes)
        parts = self.parts // self.processes
        return sharded_collectives(self._networks, self.processes, bf16=self.precision == "bf16", parts=parts)

    @cached_property
    def optimizer_collectives(self) -> Collectives:
        """What it exchanges in the update: Muon needs the momenta of entire matrices, which FSDP shards."""
        if self.shards == 1 or getattr(self.spec.train, self.stage).optimizer != "muon":
            return NO_COLLECTIVES
        bf16 = self.machines is not None or product_dtype(self.device) == torch.bfloat16
        return muon_collectives(self._networks, self.shards, bf16=bf16)

    @cached_property
    def _networks(self) -> nn.ModuleDict:
        """The networks that the stage trains, without memory."""
        model = compile_model(self.spec, "meta")
        model.prepare(self.stage)
        return trained_networks(model, self.stage)

    @property
    def device_memory(self) -> int:
        """Memory, in bytes, of the device that a process has."""
        return int(self.machines.accelerator.memory) if self.machines else device_memory(self.device)

    @property
    def memory_bytes(self) -> int:
        """Estimated peak memory of a step, per process."""
        return self.memory.peak(self.batch_size // self.parts, self.shards, self.keeps_gradients)

    @property
    def largest_batch(self) -> int:
        """Estimate of the largest batch, in as many parts, that fits into the device's memory; 0 if none does."""
        usable = int(USABLE_MEMORY * self.device_memory)
        return self.parts * self.memory.max_examples(usable, self.shards, self.keeps_gradients)


@dataclass(frozen=True)
class Plan:
    """A training run in numbers: the summary of the model, and the stages."""

    summary: ModelSummary
    stages: tuple[StagePlan, ...]

    @property
    def flops(self) -> int:
        return sum(stage.flops for stage in self.stages)


def plan_training(
    spec: Spec, stage: str, device: torch.device, processes: int = 1, machines: Machines | None = None
) -> Plan:
    """Plan `ulzoo train`. The model is compiled on `meta`, which checks that its parts fit together.

    Args:
        stage: one of the spec's, or "all".
        processes: number of processes that train together.
        machines: the accelerators to plan for, one a process, in place of the device.

    Raises:
        ValueError: the parts do not fit, the spec has no such stage, or a batch cannot be split over the processes.
    """
    summary = summarize(spec)
    sharded = processes > 1 and spec.train.parallel is not None and spec.train.parallel.kind == "fsdp"
    stages = []
    for name in spec.select_stages(stage):
        config: configs.StageConfig = getattr(spec.train, name)
        spec.check_batch_size(name, ProcessGroup(world_size=processes))
        stages.append(
            StagePlan(
                spec,
                name,
                device,
                machines,
                steps=config.steps,
                batch_size=config.batch_size,
                requested_precision=config.precision,
                precision=config.precision if machines else effective_precision(config.precision, device),
                flops_per_image=summary.training_flops(name),
                processes=processes,
                parts=processes * config.accumulate,
                shards=processes if sharded else 1,
                keeps_gradients=config.accumulate > 1 or (processes > 1 and not sharded),
            )
        )
    return Plan(summary, tuple(stages))


def count_images(spec: Spec) -> int:
    """The number of training images, without reading or downloading any.

    Raises:
        ValueError: the data is not on this machine.
    """
    data = spec.locate_data(spec.data, "data")
    disabled = {key: False for key in ("verify", "skip_unreadable", "download") if hasattr(data, key)}
    return len(DATASETS.build(data.model_copy(update=disabled), "train"))
