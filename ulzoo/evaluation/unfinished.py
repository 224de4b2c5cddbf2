"""An evaluation that was stopped goes on where it was: what was gathered so far, put down every minute."""

import hashlib
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ulzoo.evaluation.frechet import FeatureStatistics
from ulzoo.files.atomic import write_atomically
from ulzoo.model.unified_latents import UnifiedLatents

EVERY = 60.0  # seconds


class Unfinished:
    """Statistics of features on their way, and the number of images they stand for.

    Since a batch's noise depends on the number of its first image alone, going on ends in the same bits.

    Args:
        path: the file; None keeps nothing.
        statistics: what is gathered; brought to where it was, if the file is there.

    Attributes:
        done: images that need not be made again.
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
            return  # of a version that wrote something else: begin again
        if mean.shape == statistics.mean.shape:
            statistics.restore(count, mean, scatter)
            self.done = done

    def tell(self, done: int) -> None:
        """After each batch."""
        if self.path is None or time.monotonic() - self._saved < EVERY:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        count, mean, scatter = self.statistics.state()

        def write(aside: Path) -> None:
            with open(aside, "wb") as file:
                np.savez(file, mean=mean.numpy(), scatter=scatter.numpy(), count=count, done=done)

        write_atomically(self.path, write)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """When the figures are there."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def place(folder: Path, model: UnifiedLatents, told: dict[str, Any]) -> Path:
    """The file of one evaluation: of these weights, and of all that is told."""
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return folder / f"{digest.hexdigest()[:32]}.npz"
