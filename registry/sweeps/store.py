"""The results of a sweep: a folder with a row of every point in results.jsonl, which is only ever added to.

    FOLDER/sweep.yaml       the sweep as it was asked for last
    FOLDER/results.jsonl    a JSON object a line
    FOLDER/points/POINT-HASH/  a run directory each

A row has `point` (its name in the sweep), `series` (which line of a plot it belongs to), `seed`, `set` (key path ->
value), `spec` (the base spec's name), `spec_hash`, `latents_hash` (`stage1_hash` of the spec), `stages`, `status`
("done", "failed", or "stopped" early), `error`, `figures`, `protocol`, `distances` (what was asked for of them),
`paper`, `versions`, `checkpoint_sha256` (the digest that model.safetensors carries), `training_images` and
`training_flops` by stage, `gflops` (forward) and `parameters` by network, `seconds`, `folder`, `finished`. A row is the
same whenever and however often the point was stopped, but for `seconds`, `finished` and `versions`.
"""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ulzoo.files.atomic import write_text
from ulzoo.registry.spec.sweep import Sweep, is_sweep, load_sweep
from ulzoo.registry.spec.yaml_source import KeyPath, dump_yaml
from ulzoo.registry.sweeps.locks import append_line

ResultRow = dict[str, Any]
VARYING = ("seconds", "finished", "versions")
"""What may differ between two rows of the same point."""
Numbers = dict[str, int | float]


class _Row(BaseModel):
    """What a row must have, and what the rest must be if it is there."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    point: str
    spec_hash: str
    status: str
    figures: dict[str, Any]
    set: dict[str, Any]
    series: str | None = None
    seed: int | None = None
    spec: str | None = None
    latents_hash: str | None = None
    stages: list[str] = []
    error: str | None = None
    protocol: dict[str, Any] | None = None
    paper: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    checkpoint_sha256: str | None = None
    training_images: Numbers | None = None
    training_flops: Numbers | None = None
    gflops: Numbers | None = None
    parameters: Numbers | None = None
    seconds: int | float | None = None
    folder: str | None = None
    finished: str | None = None


class Store:
    """The folder of a sweep; nothing is written until the first row or the sweep is.

    Args:
        folder: made if need be.
        must_exist: refuse a folder without results.

    Raises:
        ValueError: it is a file, or has no results where it must.
    """

    def __init__(self, folder: str | os.PathLike[str], must_exist: bool = False) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "results.jsonl"
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder}: is a file, not the folder of a sweep")
        if must_exist and not self.path.is_file():
            what = "no such folder" if not self.folder.exists() else "holds no results.jsonl"
            raise ValueError(f"{self.folder}: {what}; `ulzoo sweep` makes one")
        self._warned: set[int] = set()

    @property
    def points(self) -> Path:
        """Where the run directories are."""
        return self.folder / "points"

    def rows(self) -> list[ResultRow]:
        """The row that counts of every spec, in the order in which specs came in first.

        A finished point beats a failed one, and one with more stages of training one with fewer; else the later counts.
        """
        found: dict[str, ResultRow] = {}
        rows, damaged = self._read()
        self._warn(damaged)
        for row in rows:
            if (old := found.get(row["spec_hash"])) is None or _weight(row) >= _weight(old):
                found[row["spec_hash"]] = row
        return list(found.values())

    @property
    def damaged(self) -> list[int]:
        """Numbers, from 1, of the lines that are no whole row."""
        return self._read()[1]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on the disk when this returns, and other processes may do the same meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self.path, json.dumps(row, ensure_ascii=False, allow_nan=False))

    @property
    def sweep(self) -> Sweep | None:
        """The sweep as it was asked for last, if that is known. SpecError if somebody spoilt it."""
        path = self.folder / "sweep.yaml"
        return load_sweep(path) if path.is_file() and is_sweep(path) else None

    def write_sweep(self, sweep: Sweep) -> None:
        """Put down what was asked for; the paths of base specs become relative to the folder."""
        keys = sweep.model_dump(mode="json", exclude_defaults=True)
        keys["points"] = {name: point for name, point in keys.get("points", {}).items() if point is not None}
        parts: list[tuple[KeyPath, dict[str, Any]]] = [(("spec",), keys)]
        parts += [(("points", name, "spec"), point) for name, point in keys["points"].items() if "spec" in point]
        for place, part in parts:
            if os.path.isfile(file := sweep.locate_spec(part["spec"], place)):
                part["spec"] = os.path.join(".", os.path.relpath(file, self.folder))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "sweep.yaml", dump_yaml(keys))

    def _read(self) -> tuple[list[ResultRow], list[int]]:
        """Whole rows, and the numbers of the lines that are none."""
        rows: list[ResultRow] = []
        damaged = []
        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else [b""]
        *lines, rest = lines
        if rest:
            lines.append(rest)
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                _Row.model_validate(row)
            except (ValueError, RecursionError):
                damaged.append(number)
            else:
                rows.append(row)
        return rows, damaged

    def _warn(self, damaged: list[int]) -> None:
        if new := [number for number in damaged if number not in self._warned]:
            more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
            warnings.warn(f"{self.path}:{new[0]}{more}: not a whole row of results; it is set aside", stacklevel=3)
            self._warned.update(new)


def _weight(row: ResultRow) -> tuple[bool, int]:
    """What makes one row of a spec count rather than another."""
    return row["status"] == "done", len(row.get("stages", ()))
