"""metrics.jsonl, one JSON object a line, rewound to the checkpoint when a run resumes; TensorBoard if asked."""

import json
import math
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from ulzoo.files.atomic import write_text
from ulzoo.model.contract import STAGES, Stage
from ulzoo.runtime.processes import ProcessGroup

LogRow = dict[str, Any]
_ORDER = list(STAGES)


def read_rows(path: Path) -> list[LogRow]:
    """All whole rows; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Metrics:
    """Appends rows to `folder`/metrics.jsonl, and to TensorBoard events under `folder`/tensorboard.

    Args:
        folder: the run directory.
        stage, step: rows after this point belong to a future that is about to be trained again, and are dropped.
        tensorboard: also write events; needs the extra `ulzoo[tensorboard]`.
        main: whether this process is the one that writes.
    """

    def __init__(
        self, folder: Path, stage: Stage = "latents", step: int = 0, tensorboard: bool = False, main: bool = True
    ):
        self._file: TextIO | None = None
        self._writer: Any = None
        self._warned = False
        if not main:
            return
        path = folder / "metrics.jsonl"
        kept = [
            row for row in read_rows(path) if (_ORDER.index(row["stage"]), row["step"]) <= (_ORDER.index(stage), step)
        ]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, row: LogRow) -> None:
        """Add a row; where the disk is full, say so once and go on."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            if not self._warned:
                warnings.warn(f"metrics are not written any more: {error.strerror or error}", stacklevel=2)
            self._warned = True
            return
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{row['stage']}/{name}", value, row["step"])

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        if self._writer is not None:
            self._writer.close()


CHECKED = ("rate_bits_per_pixel", "distortion", "loss", "grad_norm")


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient became NaN or infinite; nothing of that step or after it was saved."""


@dataclass(frozen=True)
class StepMetrics:
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
        cls, stage: Stage, step: int, own: dict[str, Tensor], keys: list[str], stop: bool, processes: ProcessGroup
    ) -> "StepMetrics":
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

    def read(self, processes: ProcessGroup) -> dict[str, float]:
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
            keys = [key for found in processes.all_gather(blame) for key in found] or self.keys
            shown = ", ".join(keys[:8]) + (f", … ({len(keys)} in all)" if len(keys) > 8 else "")
            raise NonFiniteLoss(
                f"stage {self.stage}, step {self.step}: {name} is {values[name]} on the images {shown}; "
                "nothing of it was saved and the last checkpoint is kept"
            )
        return values


NAMED = 3  # in warnings; the file names all


class SkippedExamples:
    """The examples that a stage could not read, each once.

    Args:
        folder: the run directory; `left_out.txt` in it lists both stages' examples, one line each.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "left_out.txt"
        self.found: dict[int, str] = {}  # index of the example -> its name and what is wrong
        self.written = 0

    def add(self, left_out: dict[int, str]) -> None:
        """Take in a batch's. New ones are warned of: a few by name."""
        for index, line in left_out.items():
            if index in self.found:
                continue
            self.found[index] = line
            if len(self.found) <= NAMED:
                warnings.warn(f"left out: {line}", stacklevel=2)
            elif len(self.found) == NAMED + 1:
                warnings.warn(f"more is left out than {NAMED} examples: see {self.path}", stacklevel=2)

    def write(self, main: bool = True) -> int:
        """Bring the file up to date, in the `main` process; how many were left out so far."""
        if main and len(self.found) > self.written:
            before = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            lines = sorted({*before, *self.found.values()})
            write_text(self.path, "".join(line + "\n" for line in lines))
            self.written = len(self.found)
        return len(self.found)

    def state(self) -> dict[str, str]:
        """For a checkpoint, as JSON has it."""
        return {str(index): line for index, line in self.found.items()}

    def load(self, state: dict[str, str]) -> None:
        self.found = {int(index): line for index, line in state.items()}
