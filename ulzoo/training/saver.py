"""Checkpoints written beside the training: a copy of the state is taken at once, a thread brings it to the disk."""

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import cast

from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ulzoo.runtime.processes import Processes
from ulzoo.training.checkpointing import State
from ulzoo.training.checkpoints import Checkpoints


class Saver:
    """Writes one checkpoint at a time; the next one waits for it, and so does the end of the context.

    Where a checkpoint cannot be written the last one stays, and training goes on with a warning.
    """

    def __init__(self, checkpoints: Checkpoints, processes: Processes):
        self.checkpoints, self.processes = checkpoints, processes
        self.group = processes.side_group
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.writing: tuple[int, Future] | None = None

    def save(self, state: State) -> None:
        """Begin to write a checkpoint; all processes must."""
        self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))  # in this thread, to plain memory
        tensors = cast(dict[str, Tensor], stager.stage(state.tensors))
        stager.close()
        copy = State(state.stage, state.step, tensors, state.metadata)
        self.writing = state.step, self.thread.submit(self.checkpoints.save, copy, self.group)

    def wait(self, must: bool = False) -> None:
        """Until what was begun is written.

        Raises:
            OSError: it could not be, but `must`.
        """
        if self.writing is None:
            return
        (step, written), self.writing = self.writing, None
        try:
            written.result()
        except OSError as error:
            if must:
                raise
            if self.processes.main:
                why = error.strerror or error
                message = f"step {step}: no checkpoint was written ({why}); the last one is kept"
                warnings.warn(message, stacklevel=2)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self.thread.shutdown()
