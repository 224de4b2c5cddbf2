"""How a long evaluation is executed: progress, several processes, and resumption after an interruption."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ulzoo.data import Source, in_order
from ulzoo.data.loader import Batch, Skipped, StreamShard
from ulzoo.evaluation.collected import Collected
from ulzoo.files.atomic import warned_of_errors, write_atomically
from ulzoo.files.tensor_file import tensors_sha256
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup

SAVE_INTERVAL = 60.0  # seconds
STATE_VERSION = 2  # of the files of unfinished evaluations

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

    def execution(self, execution: "Execution", count: int) -> "Execution":
        """An execution that reports the progress of the next phase."""
        return replace(execution, on_progress=self.phase(count))


@dataclass(frozen=True)
class Execution:
    """How metrics are computed, without effect on their values.

    Attributes:
        processes: processes that compute alternate batches; only the main one returns metrics.
        folder: folder for the results of an unfinished evaluation, from which it resumes; None disables resuming.
        on_progress: called with the number of images processed so far.
        partials: the partial results of the evaluation so far, which `finish` removes.
    """

    processes: ProcessGroup = SINGLE_PROCESS
    folder: Path | None = None
    on_progress: Callable[[int], None] = lambda done: None
    partials: list["PartialResults"] = field(default_factory=list, compare=False)

    def partial_results(
        self, collected: Mapping[str, Collected], model: UnifiedLatents, identity: Mapping[str, Any]
    ) -> "PartialResults":
        """What is collected, restored if this process was interrupted in an evaluation of this model.

        Args:
            collected: the parts of the results, by name.
            model: the model; its weights belong to the identity.
            identity: everything else that the results so far depend on, ready for JSON.
        """
        path = None
        if self.folder is not None:
            process = [self.processes.rank, self.processes.world_size]
            path = self.folder / f"{_digest(model, {**identity, 'process': process, 'version': STATE_VERSION})}.npz"
        partial = PartialResults(path, collected)
        if path is not None:
            self.partials.append(partial)
        return partial

    def finish(self) -> None:
        """Remove the files of partial results, after all metrics were computed."""
        while self.partials:
            self.partials.pop().remove()


DEFAULT_EXECUTION = Execution()


def unfinished_folder() -> Path:
    """The folder in torch's cache for the results of unfinished evaluations."""
    return Path(torch.hub.get_dir()) / "ulzoo" / "unfinished"


class PartialResults:
    """Results that are being collected, saved every minute.

    The noise of an example depends only on its number, so a resumed evaluation ends in the same bits.

    Args:
        path: the file; None saves nothing.
        collected: the parts of the results, by name; restored from the file if it exists.

    Attributes:
        done: number of images that this process had processed, with the other processes' before them, when the file
            was written.
    """

    def __init__(self, path: Path | None, collected: Mapping[str, Collected]) -> None:
        self.path, self.collected = path, collected
        self.done = 0
        self._started = self._saved = time.monotonic()
        if path is None or not path.exists():
            return
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]) for name in file.files}
            done = int(arrays.pop("done"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return  # damaged: start from the beginning
        for part, content in collected.items():
            prefix = f"{part}."
            state = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            content.restore([state])
        self.done = done

    def update(self, done: int) -> None:
        """Save the results of the first `done` images if a minute has passed; to be called after each batch."""
        if time.monotonic() - self._saved >= SAVE_INTERVAL:
            self._save(done)

    def complete(self, done: int) -> None:
        """Save the results of all `done` images if they took a minute, for a later part that is interrupted."""
        if time.monotonic() - self._started >= SAVE_INTERVAL:
            self._save(done)

    def gather(self, processes: ProcessGroup) -> None:
        """Merge the results of all processes, in the order of the batches."""
        if processes.world_size > 1:
            for content in self.collected.values():
                content.restore(processes.all_gather(content.state()))

    def remove(self) -> None:
        """Remove the file, after the metrics were computed."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _save(self, done: int) -> None:
        if self.path is None:
            return
        arrays: dict[str, Any] = {
            f"{part}.{name}": value.numpy()
            for part, content in self.collected.items()
            for name, value in content.state().items()
        }

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez(file, done=np.array(done), **arrays)

        with warned_of_errors(f"{self.path}: the evaluation cannot be resumed from here"):
            write_atomically(self.path, write)
        self._saved = time.monotonic()


class SharedPass:
    """One pass over a source by all processes, each of which measures alternate batches.

    Args:
        source: the images or clips. If it skips examples that cannot be read, every process reads all of them, because
            the number of an example, which determines its noise, depends on those that were skipped; otherwise each is
            read by one process only.
        batch_size: examples per batch.
        limit: number of images or clips from the start; all if None.
        partial: the results that are collected, of which those of this process may have been restored.
        execution: processes and progress.

    Attributes:
        images: number of examples that all processes measured, after the pass.
        skipped: the examples that could not be read.
    """

    def __init__(
        self, source: Source, batch_size: int, limit: int | None, partial: PartialResults, execution: Execution
    ) -> None:
        self.source, self.batch_size, self.limit = source, batch_size, limit
        self.partial, self.execution = partial, execution
        self.images = 0
        self.skipped: Skipped = {}

    def batches(self) -> Iterator[tuple[Batch, range]]:
        """The batches of this process that are not yet measured, each with the numbers of its examples.

        At the end, the results of all processes are merged.
        """
        processes, partial = self.execution.processes, self.partial
        done = 0
        for batch, own in shared_batches(self.source, self.batch_size, self.limit, processes):
            self.skipped |= batch["skipped"]
            done = batch["images"]
            if own and done > partial.done:
                yield batch, range(done - len(batch["x"]), done)
                partial.update(done)
            self.execution.on_progress(done)
        partial.complete(done)
        self.images = done if self.source.skips_unreadable else min(self.limit or len(self.source), len(self.source))
        partial.gather(processes)


def shared_batches(
    source: Source, batch_size: int, limit: int | None, processes: ProcessGroup, *, main_reads_all: bool = False
) -> Iterator[tuple[Batch, bool]]:
    """Batches of `in_order`, and whether this process is the one that measures each.

    The others are included only if they had to be read: because the source skips examples that cannot be, or because
    the main process needs all.
    """
    if source.skips_unreadable or (main_reads_all and processes.is_main):
        for number, batch in enumerate(in_order(source, batch_size, limit)):
            yield batch, number % processes.world_size == processes.rank
    else:
        shard = StreamShard(processes.rank, processes.world_size)
        yield from ((batch, True) for batch in in_order(source, batch_size, limit, shard=shard))


def shared_examples(count: int, batch_size: int, partial: PartialResults, execution: Execution) -> Iterator[range]:
    """The numbers of `count` examples that need no source, in the batches of this process that are not yet measured.

    At the end, the results of all processes are merged.
    """
    processes = execution.processes
    for start in range(processes.rank * batch_size, count, processes.world_size * batch_size):
        stop = min(start + batch_size, count)
        if stop > partial.done:
            yield range(start, stop)
            partial.update(stop)
        execution.on_progress(stop)
    partial.complete(count)
    partial.gather(processes)


def _digest(model: UnifiedLatents, identity: Mapping[str, Any]) -> str:
    """A hash of the model's weights and of everything else that identifies an evaluation."""
    content = json.dumps(identity, sort_keys=True) + tensors_sha256(model.state_dict())
    return hashlib.sha256(content.encode()).hexdigest()[:32]
