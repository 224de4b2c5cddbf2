"""The terms of a step's loss, read while the device works on the next step: no step waits for the host."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ulzoo.model.contract import Stage
from ulzoo.runtime.processes import Processes

CHECKED = ("rate_bits_per_pixel", "distortion", "loss", "grad_norm")


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient became NaN or infinite; nothing of that step or after it was saved."""


@dataclass(frozen=True)
class Terms:
    """Of one step, on their way from the device.

    Attributes:
        values: means over all processes by name; 0-dimensional, on the host once `ready`.
        own: the same of this process alone, on the device; its gradient norm is that of all.
        keys: of the images.
    """

    stage: Stage
    step: int
    values: dict[str, Tensor]
    own: dict[str, Tensor]
    keys: list[str]
    ready: "torch.cuda.Event | None"

    @classmethod
    def send(
        cls, stage: Stage, step: int, own: dict[str, Tensor], keys: list[str], stop: bool, processes: Processes
    ) -> "Terms":
        """Average over the processes and begin the way to the host, with the wish to "stop" of any of them."""
        first = next(iter(own.values()))
        wish = torch.full((), float(stop), device=first.device)
        means = processes.mean(torch.stack([value.float() for value in (*own.values(), wish)]))
        ready = None
        if means.is_cuda:
            host = torch.empty(means.shape, pin_memory=True).copy_(means, non_blocking=True)
            means, ready = host, torch.cuda.Event()
            ready.record()
        return cls(stage, step, dict(zip((*own, "stop"), means, strict=True)), own, keys, ready)

    def read(self, processes: Processes) -> dict[str, float]:
        """Wait for them.

        Raises:
            NonFiniteLoss: on all processes at once, with the images of those whose own terms are not finite.
        """
        if self.ready:
            self.ready.synchronize()
        values = {name: value.item() for name, value in self.values.items()}
        for name in CHECKED:
            if math.isfinite(values.get(name, 0.0)):
                continue
            mine = [value for term, value in self.own.items() if term != "grad_norm"]
            blame = [] if all(value.isfinite() for value in mine) else self.keys
            keys = [key for found in processes.gather(blame) for key in found] or self.keys
            shown = ", ".join(keys[:8]) + (f", … ({len(keys)} in all)" if len(keys) > 8 else "")
            raise NonFiniteLoss(
                f"stage {self.stage}, step {self.step}: {name} is {values[name]} on the images {shown}; "
                "nothing of it was saved and the last checkpoint is kept"
            )
        return values
