"""The time and energy of a training on given accelerators, estimated from FLOPs, bytes of memory and bytes sent.

A step is the time of its matrix products at an assumed model FLOPs utilisation, that of the optimizer, which is limited
by memory, and what collectives take beyond the backward pass, behind which they run. An estimate for planning, to be
replaced by a measured step.
"""

from dataclasses import dataclass

from ulzoo.registry.cost.accelerators import Machines
from ulzoo.registry.cost.plan import StagePlan

MFU = 0.4
"""Assumed share of the peak that matrix products reach over the forward and backward pass; not measured."""
BACKWARD = 2 / 3
"""Share of the backward pass in the FLOPs of a step."""
OPTIMIZER_BYTES = 44
"""Memory traffic per weight in fp32: AdamW reads weight, gradient and two moments and writes all but the gradient; the
average reads itself and the weight and is written; clipping reads the gradient."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        compute: forward and backward pass.
        optimizer: optimizer and average of the weights.
        collectives: all that is sent in the forward and backward passes, also behind the latter.
        optimizer_collectives: all that is sent in the update.
    """

    compute: float
    optimizer: float
    collectives: float
    optimizer_collectives: float

    @property
    def exposed(self) -> float:
        """Seconds of collectives beyond the backward pass."""
        return max(0.0, self.collectives - BACKWARD * self.compute) + self.optimizer_collectives

    @property
    def total(self) -> float:
        return self.compute + self.optimizer + self.exposed


def step_time(stage: StagePlan) -> StepTime:
    """The time of a step of one stage on the accelerators that it is planned for, with one process for each."""
    assert stage.machines
    machines = stage.machines
    accelerator, weights = machines.accelerator, stage.memory.weights
    flops = stage.batch_size * stage.flops_per_image / machines.count
    share = stage.memory.largest_shard(stage.shards)
    return StepTime(
        compute=flops / (MFU * accelerator.peak(stage.precision)),
        optimizer=OPTIMIZER_BYTES * weights * share / accelerator.bandwidth,
        collectives=stage.collectives.bytes_sent / machines.bandwidth,
        optimizer_collectives=stage.optimizer_collectives.bytes_sent / machines.bandwidth,
    )


def kilowatt_hours(seconds: float, machines: Machines) -> float:
    """Energy of the accelerators at the limit of their power, without hosts and cooling."""
    return seconds / 3600 * machines.count * machines.accelerator.watts / 1000
