"""Exports of what training left, a run or one of its checkpoints, and of exports in another precision."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulzoo.files import tensor_file
from ulzoo.files.atomic import sha256
from ulzoo.registry.runs.export import Dtype, load_export, save_export
from ulzoo.registry.runs.train import restore
from ulzoo.training.checkpointing import Checkpoint, CheckpointManager


@dataclass(frozen=True)
class Exported:
    """The file that was written.

    Attributes:
        source: the checkpoint or export it was made of.
        stage, step: where training stood; None of an export.
        measured: whether figures went with it.
    """

    path: Path
    source: Path
    stage: str | None
    step: int | None
    measured: bool

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.stat().st_size for file in tensor_file.files_of(self.path))

    @property
    def sha256(self) -> str:
        """Of the file, or of the index of its parts."""
        return sha256(tensor_file.files_of(self.path)[0])


def export(source: Path, out: Path, dtype: Dtype | None = None) -> Exported:
    """Export averaged weights.

    A run's figures go along if they were measured at the checkpoint's step, but not with rounded weights, which they
    were not measured with.

    Args:
        source: a run directory, whose newest whole checkpoint is taken; a training checkpoint; or, if `dtype` is given,
            an export.
        out: the file to write.
        dtype: of the stored weights, float32 if None.

    Raises:
        ValueError: nothing there to export.
    """
    if dtype and tensor_file.files_of(source):
        loaded = load_export(source)
        results = loaded.results if dtype == "float32" else {}
        save_export(out, loaded.model, loaded.spec, results, dtype)
        return Exported(out, source, None, None, bool(results))
    checkpoint = _checkpoint(source)
    model, spec = restore(checkpoint)
    path = checkpoint.folder
    results = _figures(path.parent.parent, checkpoint) if dtype in (None, "float32") else {}
    save_export(out, model, spec, results, dtype or "float32")
    return Exported(out, path, checkpoint.stage, checkpoint.step, bool(results))


def _checkpoint(source: Path) -> Checkpoint:
    if tensor_file.is_checkpoint(source):
        return Checkpoint.open(source)
    if not source.is_dir():
        raise ValueError(f"{source}: neither a run directory nor a training checkpoint; an export needs --dtype")
    newest = CheckpointManager(source / "checkpoints").latest()
    if newest is None:
        raise ValueError(f"{source}: holds no training checkpoints")
    return newest


def _figures(run: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """The run's figures if they are this checkpoint's."""
    try:
        results = json.loads((run / "figures.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    of = {"stage": checkpoint.stage, "step": checkpoint.step, "spec_hash": checkpoint.metadata["spec_hash"]}
    return results if results.get("trained") == of else {}
