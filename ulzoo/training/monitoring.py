"""metrics.jsonl, one JSON object a line, rewound to the checkpoint when a run resumes; TensorBoard if asked."""

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from ulzoo.files.atomic import write_text
from ulzoo.model.contract import STAGES, Stage

Row = dict[str, Any]
_ORDER = list(STAGES)


def read_rows(path: Path) -> list[Row]:
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

    def write(self, row: Row) -> None:
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
