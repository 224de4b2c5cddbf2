"""metrics.jsonl, one JSON object a line, rewound to the checkpoint when a run resumes; TensorBoard if asked."""

import json
from pathlib import Path
from typing import Any

from ulzoo.contract import STAGES, Stage
from ulzoo.files import write_text

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
    """

    def __init__(self, folder: Path, stage: Stage = "latents", step: int = 0, tensorboard: bool = False):
        path = folder / "metrics.jsonl"
        kept = [
            row for row in read_rows(path) if (_ORDER.index(row["stage"]), row["step"]) <= (_ORDER.index(stage), step)
        ]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{row['stage']}/{name}", value, row["step"])

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()
