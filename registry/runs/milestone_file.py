"""RUN/milestones.json, which `ulzoo evaluate --milestones` writes: {"milestones": [row, …]}.

A row has `stage` and `step`; `images`, the number of examples that the stage has trained on; `training_flops` of the
networks that the stage trains; `checkpoint`, the SHA-256 of its checkpoint.json; `settings`, a hash of what was
measured, which may differ between rows; and `figures`, `protocol`, `hashes` and `cautions` as in figures.json.
"""

import json
from pathlib import Path
from typing import Any

MILESTONES = "milestones.json"
MilestoneRow = dict[str, Any]


def read_milestones(run: Path) -> list[MilestoneRow]:
    """The rows of a run's milestones, in the order in which they were measured; [] if none were.

    Raises:
        ValueError: the file is damaged.
    """
    path = run / MILESTONES
    try:
        rows = json.loads(path.read_text("utf-8"))["milestones"]
        assert all(isinstance(row["step"], int) and isinstance(row["training_flops"], int | float) for row in rows)
        assert all(isinstance(row[key], str) for row in rows for key in ("stage", "checkpoint", "settings"))
        assert all(isinstance(row[key], dict) for row in rows for key in ("figures", "protocol", "hashes"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{path}: damaged, not the milestones of a run; remove it to measure them again") from None
    return rows
