"""What is watched while a stage trains: the log, the metrics of each step, skipped examples, a collapsing latent."""

import json
import math
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from ulzoo.diffusion import SigmoidWeighting
from ulzoo.files.atomic import write_text
from ulzoo.model.contract import STAGES, Stage
from ulzoo.model.denoisers import DiffusionModel, RegressionDecoder
from ulzoo.model.rate import COLLAPSED_BITS_PER_DIMENSION
from ulzoo.model.rate_control import ControlName
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.processes import ProcessGroup

LogRow = dict[str, Any]
FINITE = ("rate_bits_per_pixel", "distortion", "loss", "grad_norm")
NAMED_IN_WARNINGS = 3  # skipped examples; the file lists all of them
_ORDER = list(STAGES)


def read_rows(path: Path) -> list[LogRow]:
    """The rows of a log. A last line that is cut short is ignored."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsLog:
    """Appends rows to `folder`/metrics.jsonl, one JSON object a line.

    Args:
        folder: the run directory.
        stage, step: later rows are dropped, since these steps are about to be trained again.
        enabled: False on all ranks but the first, which then write nothing.
    """

    def __init__(self, folder: Path, stage: Stage = "latents", step: int = 0, *, enabled: bool = True):
        self._file: TextIO | None = None
        self._warned = False
        if not enabled:
            return
        path, last = folder / "metrics.jsonl", (_ORDER.index(stage), step)
        rows = [row for row in read_rows(path) if (_ORDER.index(row["stage"]), row["step"]) <= last]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, row: LogRow) -> None:
        """Append a row. If the disk is full, warn once and continue."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            if not self._warned:
                warnings.warn(f"metrics are no longer written: {error.strerror or error}", stacklevel=2)
            self._warned = True

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient became NaN or infinite; nothing of that step or later was saved."""


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one step, copied to the host while the device computes the next step.

    Attributes:
        stage, step: which step.
        local: the terms of this rank, on the device; the gradient norm is that of all ranks.
        means: means over all ranks by name, () each, on the host once `ready`; "stop" is positive if a rank must stop.
        keys: of the images of this rank.
        ready: recorded after the copy to the host; None on the CPU.
    """

    stage: Stage
    step: int
    local: dict[str, Tensor]
    means: dict[str, Tensor]
    keys: list[str]
    ready: "torch.cuda.Event | None"

    @classmethod
    def start_copy(
        cls, stage: Stage, step: int, local: dict[str, Tensor], keys: list[str], stop: bool, processes: ProcessGroup
    ) -> "StepMetrics":
        """Average over the ranks, with their wish to `stop`, and start the copy to the host."""
        stop_flag = torch.full((), float(stop), device=next(iter(local.values())).device)
        means = torch.stack([value.float() for value in (*local.values(), stop_flag)])
        if processes.world_size > 1:
            means = processes.mean(means)
        ready = None
        if means.is_cuda:
            host = torch.empty(means.shape, pin_memory=True).copy_(means, non_blocking=True)
            means, ready = host, torch.cuda.Event()
            ready.record()
        return cls(stage, step, local, dict(zip((*local, "stop"), means, strict=True)), keys, ready)

    def result(self, processes: ProcessGroup) -> dict[str, float]:
        """The means, after waiting for the copy.

        Raises:
            NonFiniteLoss: on all ranks at once, with the images of the ranks whose own terms are not finite.
        """
        if self.ready:
            self.ready.synchronize()
        values = {name: value.item() for name, value in self.means.items()}
        for name in FINITE:
            if math.isfinite(values.get(name, 0.0)):
                continue
            own_terms = [value for term, value in self.local.items() if term != "grad_norm"]
            suspects = [] if all(value.isfinite() for value in own_terms) else self.keys
            keys = [key for rank_keys in processes.all_gather(suspects) for key in rank_keys] or self.keys
            listed = ", ".join(keys[:8]) + (f", … ({len(keys)} in all)" if len(keys) > 8 else "")
            raise NonFiniteLoss(
                f"stage {self.stage}, step {self.step}: {name} is {values[name]} on the images {listed}; "
                "nothing of this step was saved and the last checkpoint is kept"
            )
        return values


class SkippedExamples:
    """The examples that a stage could not read, each listed once.

    Args:
        folder: the run directory; its `skipped.txt` lists the examples of all stages, one line each.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._earlier_path = folder / "skipped.txt", folder / "left_out.txt"
        self.reasons: dict[int, str] = {}  # index of the example -> its name and the reason
        self._written = 0

    def add(self, reasons: dict[int, str]) -> None:
        """Add the skipped examples of a batch, and warn of the first few new ones."""
        for index, reason in reasons.items():
            if index in self.reasons:
                continue
            self.reasons[index] = reason
            if len(self.reasons) <= NAMED_IN_WARNINGS:
                warnings.warn(f"skipped: {reason}", stacklevel=2)
            elif len(self.reasons) == NAMED_IN_WARNINGS + 1:
                warnings.warn(f"more than {NAMED_IN_WARNINGS} examples are skipped: see {self.path}", stacklevel=2)

    def write(self, *, enabled: bool = True) -> int:
        """Bring the file up to date if `enabled`; return the number of examples skipped so far."""
        if enabled and len(self.reasons) > self._written:
            listed = [path.read_text("utf-8") for path in (self.path, self._earlier_path) if path.exists()]
            lines = sorted({*"".join(listed).splitlines(), *self.reasons.values()})
            write_text(self.path, "".join(line + "\n" for line in lines))
            self._written = len(self.reasons)
        return len(self.reasons)

    def state(self) -> dict[str, str]:
        """For a checkpoint, as JSON allows."""
        return {str(index): reason for index, reason in self.reasons.items()}

    def load(self, state: dict[str, str]) -> None:
        self.reasons = {int(index): reason for index, reason in state.items()}


class CollapseMonitor:
    """Warns once when the rate is near zero: the latent then carries nothing and the decoder generates alone.

    Args:
        model: its latent and decoder.
        first_step: before it, in warm-up, the rate may not have risen yet: only a rate that falls again is reported.
        last_step: at which a rate near zero is reported in any case.
    """

    def __init__(self, model: UnifiedLatents, first_step: int, last_step: int | None = None) -> None:
        self.model, self.first_step, self.last_step = model, first_step, last_step
        self.warned = self.risen = False

    def check(self, step: int, rate_bits_per_pixel: float) -> None:
        """Check the rate at a step."""
        caution = collapse_caution(self.model, rate_bits_per_pixel)
        self.risen |= caution is None
        if caution and not self.warned and (step >= self.first_step or self.risen or step == self.last_step):
            warnings.warn(f"step {step}: {caution}", stacklevel=2)
            self.warned = True


def collapse_caution(model: UnifiedLatents, rate_bits_per_pixel: float) -> str | None:
    """A line about a rate near zero and the keys that raise it, with their values; None for other rates."""
    contract, decoder = model.contract, model.decoder
    if rate_bits_per_pixel * contract.pixels / contract.latent_dimensions >= COLLAPSED_BITS_PER_DIMENSION:
        return None
    keys = "decoder.weighting.loss_factor or decoder.weighting.bias"
    if isinstance(decoder, RegressionDecoder):
        keys = f"decoder.weight (now {decoder.weight:g})"
    elif isinstance(decoder, DiffusionModel) and isinstance(weighting := decoder.weighting, SigmoidWeighting):
        keys = f"{keys} (now {_number_or_range(weighting, 'loss_factor')} and {_number_or_range(weighting, 'bias')})"
    return f"the rate is {rate_bits_per_pixel:.4f} bits/pixel, the latent is collapsing; raise {keys}"


def _number_or_range(weighting: SigmoidWeighting, name: ControlName) -> str:
    low, high = weighting.ranges.get(name, 2 * (getattr(weighting, name),))
    return f"{low:g} to {high:g}" if low < high else f"{low:g}"
