"""How a long evaluation is executed: progress, several processes, and resumption after an interruption."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ulzoo.evaluation.frechet import FeatureStatistics
from ulzoo.files.atomic import warned_of_errors, write_atomically
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup

SAVE_INTERVAL = 60.0  # seconds

ProgressCallback = Callable[[int, int], None]  # called with the number of examples processed so far, and their total


class ProgressCounter:
    """The progress of several phases, reported as one count of examples.

    Args:
        total: the number of examples of all phases.
        on_progress: called with the number of examples processed so far, and the total.
    """

    def __init__(self, total: int, on_progress: ProgressCallback) -> None:
        self.total, self.on_progress = total, on_progress
        self._start = 0

    def phase(self, count: int) -> Callable[[int], None]:
        """The callback of the next phase, which has `count` examples and reports how many of them are processed."""
        start, self._start = self._start, self._start + count
        return lambda done: self.on_progress(start + done, self.total)


@dataclass(frozen=True)
class Execution:
    """How distances are computed, without effect on their values.

    Attributes:
        processes: processes that compute alternate batches; only the main one returns metrics.
        folder: folder for the statistics of an unfinished evaluation, from which it resumes; None disables resuming.
        on_progress: called with the number of images processed so far.
    """

    processes: ProcessGroup = SINGLE_PROCESS
    folder: Path | None = None
    on_progress: Callable[[int], None] = lambda done: None

    def partial_statistics(
        self, statistics: FeatureStatistics, model: UnifiedLatents, protocol: dict[str, Any]
    ) -> "PartialStatistics":
        """`statistics`, restored if this process was interrupted in an evaluation of this model by this protocol."""
        if self.folder is None:
            return PartialStatistics(None, statistics)
        rank, world_size = self.processes.rank, self.processes.world_size
        identity = {**protocol, "process": [rank, world_size]} if world_size > 1 else protocol
        return PartialStatistics(self.folder / f"{_digest(model, identity)}.npz", statistics)


DEFAULT_EXECUTION = Execution()


class PartialStatistics:
    """Statistics of features that are being collected, saved every minute.

    The noise of an image depends only on its number, so a resumed evaluation ends in the same bits.

    Args:
        path: the file; None saves nothing.
        statistics: the statistics being collected; restored from the file if it exists.

    Attributes:
        done: number of images that the restored statistics contain.
    """

    def __init__(self, path: Path | None, statistics: FeatureStatistics) -> None:
        self.path, self.statistics = path, statistics
        self.done = 0
        self._saved = time.monotonic()
        if path is None or not path.exists():
            return
        try:
            with np.load(path, allow_pickle=False) as file:
                mean, scatter = (torch.from_numpy(file[name]) for name in ("mean", "scatter"))
                count, done = int(file["count"]), int(file["done"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return  # damaged, or written by another version: start from the beginning
        if mean.shape == statistics.mean.shape:
            statistics.restore(count, mean, scatter)
            self.done = done

    def update(self, done: int) -> None:
        """Save the statistics of the first `done` images if a minute has passed; to be called after each batch."""
        if self.path is None or time.monotonic() - self._saved < SAVE_INTERVAL:
            return
        count, mean, scatter = self.statistics.state()

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez(file, mean=mean.numpy(), scatter=scatter.numpy(), count=count, done=done)

        with warned_of_errors(f"{self.path}: the evaluation cannot be resumed from here"):
            write_atomically(self.path, write)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Remove the file, after the metrics were computed."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _digest(model: UnifiedLatents, identity: dict[str, Any]) -> str:
    """A hash of the model's weights and of everything else that identifies an evaluation."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
