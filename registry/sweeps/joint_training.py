"""The training of a point by one process for each of its devices, as `ulzoo train` does it under torchrun."""

import warnings
from pathlib import Path
from typing import Any

import torch

from ulzoo.files import tensor_file
from ulzoo.model.contract import Stage
from ulzoo.registry.runs.callbacks import TrainingCallback
from ulzoo.registry.runs.train import RunOptions, RunResult, train
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.sweeps.jobs import Job
from ulzoo.registry.sweeps.ranks import Send, run_ranks
from ulzoo.registry.zoo.catalogue import open_model
from ulzoo.runtime.processes import ProcessGroup
from ulzoo.training.config import ParallelConfig, StageConfig
from ulzoo.training.monitoring import LogRow


def train_jointly(job: Job, spec: Spec, callback: TrainingCallback) -> dict[str, Any]:
    """Train the stages of a job by a process per device. Returns `summarize_run` of the run.

    Args:
        job: the point.
        spec: its spec.
        callback: its `on_stage` and `on_step` are called here. If they raise, the processes are killed.

    Raises:
        RankFailed, RankKilled, KeyboardInterrupt: see `run_ranks`.
    """

    def on_message(message: tuple[str, tuple[Any, ...]]) -> None:
        kind, content = message
        if kind == "stage":
            stage, start = content
            callback.on_stage(stage, getattr(spec.train, stage), start)
        elif kind == "step":
            callback.on_step(*content)
        else:
            warnings.warn(content[0], stacklevel=1)

    timeout = (spec.train.parallel or ParallelConfig()).timeout_minutes
    return run_ranks(
        _train_rank, (job,), job.devices, threads=job.threads, timeout_minutes=timeout, on_message=on_message
    )


def summarize_run(result: RunResult) -> dict[str, Any]:
    """Metrics, protocol and digest of a finished run."""
    results, digest = result.results, tensor_file.digest_of(result.export)
    return {"figures": results["figures"], "protocol": results["protocol"], "checkpoint_sha256": digest}


def _train_rank(job: Job, processes: ProcessGroup, send: Send) -> dict[str, Any] | None:
    """What one of the processes does. Returns the summary of the run in the main one."""
    callback = None
    if processes.is_main:
        warnings.filterwarnings("always", category=UserWarning, module=r"ulzoo(\.|$)")
        warnings.showwarning = lambda message, *_: send(("warning", (str(message),)))
        callback = _StepSender(send)
    device = torch.device(job.devices[processes.rank])
    options = RunOptions(job.stage_to_train, resume=True, device=device, open_model=open_model)
    folder = Path(job.store) / job.folder
    result = train(job.load_spec(), folder, options, callback=callback, processes=processes)
    return summarize_run(result) if result else None


class _StepSender(TrainingCallback):
    """Sends the progress of the main process."""

    def __init__(self, send: Send) -> None:
        self.send = send

    def on_stage(self, stage: Stage, config: StageConfig, start: int) -> None:
        self.send(("stage", (stage, start)))

    def on_step(self, step: int, row: LogRow | None) -> None:
        self.send(("step", (step, row)))
