"""The results of a sweep: a folder with one row for every point in results.jsonl, to which rows are only appended.

    FOLDER/sweep.yaml          the sweep of the last command
    FOLDER/results.jsonl       one JSON object per line
    FOLDER/points/POINT-HASH/  one run directory per point

A row has `point` (its name in the sweep), `series` (the line of a plot that it belongs to), `seed`, `set` (key path ->
value), `overrides` (key path -> value of what the command sets for all points), `spec` (name of the base spec),
`resolved` (the resolved spec), `spec_hash`, `latents_hash` (`stage1_hash` of the spec), `stages`, `status` ("done",
"failed", or "stopped" early), `error`, `figures` (the metrics), `protocol`, `curve` (of a variable-rate model only: a
list of `loss_factor`, `figures` and `protocol`), `distances` (which ones were requested), `paper`, `versions`,
`checkpoint_sha256` (the digest stored in model.safetensors), `training_images` and `training_flops` by stage, `gflops`
(forward) and `parameters` by network, `seconds` (of all processes that worked on the point), `folder`, `finished`.
However often the training of a point is interrupted, its row is the same except for `seconds`, `finished` and
`versions`.
Rows of earlier versions lack `overrides` and `resolved`.
"""

import fcntl
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

ResultRow = dict[str, Any]
VARYING = ("seconds", "finished", "versions")
"""Keys that may differ between two rows of the same point."""
Numbers = dict[str, int | float]


class _CurveSchema(BaseModel):
    """Required keys of an entry of a curve."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    loss_factor: int | float
    figures: dict[str, Any]
    protocol: dict[str, Any]


class _RowSchema(BaseModel):
    """Required keys, and the types of the optional ones."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    point: str
    spec_hash: str
    status: str
    figures: dict[str, Any]
    set: dict[str, Any]
    series: str | None = None
    seed: int | None = None
    spec: str | None = None
    overrides: dict[str, Any] | None = None
    resolved: dict[str, Any] | None = None
    latents_hash: str | None = None
    stages: list[str] = []
    error: str | None = None
    protocol: dict[str, Any] | None = None
    curve: list[_CurveSchema] | None = None
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
    """The folder of a sweep. It is created by the first write.

    Args:
        folder: need not exist.
        must_exist: whether a folder without results is an error.

    Raises:
        ValueError: the path is a file, or there are no results although there must be.
    """

    def __init__(self, folder: str | os.PathLike[str], must_exist: bool = False) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "results.jsonl"
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder}: is a file, not the folder of a sweep")
        if must_exist and not self.path.is_file():
            problem = "no such folder" if not self.folder.exists() else "has no results.jsonl"
            raise ValueError(f"{self.folder}: {problem}; run `ulzoo sweep` to create one")
        self._warned: set[int] = set()

    @property
    def points(self) -> Path:
        """The folder of the run directories."""
        return self.folder / "points"

    def rows(self) -> list[ResultRow]:
        """The current row of every spec, in the order of the first row of each.

        A finished point has precedence over a failed one, and more stages over fewer; otherwise the latest row counts.
        """
        current: dict[str, ResultRow] = {}
        rows, damaged = self._read()
        self._warn(damaged)
        for row in rows:
            if (old := current.get(row["spec_hash"])) is None or _precedence(row) >= _precedence(old):
                current[row["spec_hash"]] = row
        return list(current.values())

    @property
    def damaged(self) -> list[int]:
        """Numbers, counted from 1, of the lines that are not complete rows."""
        return self._read()[1]

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row. It is on the disk when this returns; other processes may append at the same time.

        If a killed process left the last line incomplete, the row starts on a new line.
        """
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        assert "\n" not in line
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            complete = size == 0 or file.read(1) == b"\n"
            file.write((b"" if complete else b"\n") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def sweep(self) -> Sweep | None:
        """The sweep of the last command; None if there is no sweep.yaml. SpecError if the file is invalid."""
        path = self.folder / "sweep.yaml"
        return load_sweep(path) if path.is_file() and is_sweep(path) else None

    def write_sweep(self, sweep: Sweep) -> None:
        """Write sweep.yaml. Paths of base specs become relative to the folder."""
        keys = sweep.model_dump(mode="json", exclude_defaults=True)
        keys["points"] = {name: point for name, point in keys.get("points", {}).items() if point is not None}
        parts: list[tuple[KeyPath, dict[str, Any]]] = [(("spec",), keys)]
        parts += [(("points", name, "spec"), point) for name, point in keys["points"].items() if "spec" in point]
        for key_path, part in parts:
            if os.path.isfile(file := sweep.locate_spec(part["spec"], key_path)):
                part["spec"] = os.path.join(".", os.path.relpath(file, self.folder))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "sweep.yaml", dump_yaml(keys))

    def _read(self) -> tuple[list[ResultRow], list[int]]:
        """The complete rows, and the numbers of the other lines."""
        rows: list[ResultRow] = []
        damaged = []
        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else [b""]
        *lines, rest = lines
        if rest:
            lines.append(rest)
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                _RowSchema.model_validate(row)
            except (ValueError, RecursionError):
                damaged.append(number)
            else:
                rows.append(row)
        return rows, damaged

    def _warn(self, damaged: list[int]) -> None:
        if new := [number for number in damaged if number not in self._warned]:
            more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
            warnings.warn(f"{self.path}:{new[0]}{more}: not a complete row of results; skipped", stacklevel=3)
            self._warned.update(new)


def error_line(error: BaseException) -> str:
    """An error message in one line, with the type of the error unless the message is meant for users."""
    text = " ".join(str(error).split())[:500]
    return text if text and isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: {text}"


def _precedence(row: ResultRow) -> tuple[bool, int]:
    """Sort key: of two rows of a spec the one with the higher key counts."""
    return row["status"] == "done", len(row.get("stages", ()))
