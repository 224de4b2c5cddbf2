"""The trainer of every stage: data, loss, step, moving average, log, checkpoint.

Every image draws its times and noise from a stream seeded by (seed, stage, image counter). So a resumed run needs no
saved generator state and, on the CPU, ends with the same bits as an uninterrupted one; and the split of a batch into
parts and over ranks changes only the order of sums (and the masks of dropout).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from ulzoo.data import Batch, Source, StreamShard, batches
from ulzoo.data.storage.remote import RemotePath
from ulzoo.diffusion import AdaptiveSchedule, ExampleNoise
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import STAGES, Stage
from ulzoo.model.losses import StageLoss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.devices import autocast, effective_precision, keep_freed_memory
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup
from ulzoo.runtime.seeds import derive_seed
from ulzoo.training import config as configs
from ulzoo.training.checkpoint import Checkpoint, TrainingState
from ulzoo.training.checkpointing import AsyncCheckpointer, CheckpointManager
from ulzoo.training.compilation import CompiledLoss, compile_blocks
from ulzoo.training.interruption import RunStopped, StopSignals, watchdog
from ulzoo.training.monitoring import CollapseMonitor, LogRow, MetricsLog, SkippedExamples, StepMetrics
from ulzoo.training.optimizers import (
    build_ema,
    build_optimizer,
    empty_optimizer_state,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)
from ulzoo.training.parallelize import checkpoint_activations, full_tensor, replicate, shard
from ulzoo.training.parametrisation import learning_rate_scales, trained_networks
from ulzoo.training.posthoc_ema import PREFIX, SNAPSHOTS, PowerAverages
from ulzoo.training.profiling import profile_steps
from ulzoo.training.remote_checkpoints import RemoteCheckpoints


@dataclass(frozen=True)
class TrainerOptions:
    """What does not change the result of a training.

    Attributes:
        identity: stored in every checkpoint: the resolved spec, its hash, versions.
        profile: write where the time of a few steps goes into `folder`/profile.
        processes: the ranks that train together, each with a share of every batch.
        parallel: how they train together; DDP if None.
        proxy: the networks that the stage trains, as narrow as those that lr was tuned on, if it has µP.
        remote: a folder in an object store for copies of checkpoints and snapshots.
        on_step: called after each step with its number and, if one was logged, the row of the log.
        on_checkpoint: called with the number of a step whose checkpoint begins to be written.
    """

    identity: dict[str, Any]
    profile: bool = False
    processes: ProcessGroup = SINGLE_PROCESS
    parallel: configs.ParallelConfig | None = None
    proxy: nn.Module | None = None
    remote: RemotePath | None = None
    on_step: Callable[[int, LogRow | None], None] = lambda step, row: None
    on_checkpoint: Callable[[int], None] = lambda step: None


class Trainer:
    """Trains one stage of a model.

    Args:
        model: on its device; the networks that the stage trains are put in training mode, the others are frozen.
        stage: "latents", "decoder" or "base".
        config: the stage's section of the spec.
        source: training images.
        folder: run directory, for checkpoints and the log.
        options: see `TrainerOptions`.

    Raises:
        ValueError: the batch cannot be split over the ranks.
    """

    def __init__(
        self,
        model: UnifiedLatents,
        stage: Stage,
        config: configs.StageConfig,
        source: Source,
        folder: Path,
        options: TrainerOptions,
    ):
        self.model, self.stage, self.config, self.source = model, stage, config, source
        self.folder, self.options, self.processes = folder, options, options.processes
        self.local_batch = self.processes.local_batch_size(config.batch_size, config.accumulate)
        keep_freed_memory(model.device)
        model.prepare(stage)
        self.networks = trained_networks(model, stage)
        assert (options.proxy is None) == (config.parametrisation is None)
        scales: list[float] | None = None
        if options.proxy is not None:  # before modules are wrapped and parameters sharded, which keep their order
            scales = learning_rate_scales(self.networks, options.proxy, config.optimizer)
        parallel = options.parallel
        if parallel and parallel.checkpoint_activations:
            checkpoint_activations(self.networks)
        self.ema = build_ema(self.networks, config)
        loss = StageLoss(model, stage, encoded=source.encoded)
        self.loss: nn.Module = CompiledLoss(loss) if config.compile == "step" else loss
        self.sharded = self.processes.world_size > 1 and parallel is not None and parallel.kind == "fsdp"
        if self.sharded:
            bf16 = effective_precision(config.precision, model.device) == "bf16"
            for networks in (self.networks, cast(nn.ModuleDict, self.ema.module)):
                shard(networks, self.processes, model.device, bf16)
        else:
            self.loss = replicate(self.loss, self.processes)
        self.schedules = [module for module in self.networks.modules() if isinstance(module, AdaptiveSchedule)]
        self.autocast = autocast(config.precision, model.device)
        self.parameters = list(self.networks.parameters())
        averages = config.posthoc_ema
        self.posthoc_ema = PowerAverages(self.networks.state_dict(), averages.lengths) if averages else None
        self.optimizer = build_optimizer(self.networks, config, scales)
        self.step = 0
        self.window: dict[str, float] = {}  # sums of the metrics since the last row of the log
        self.skipped = SkippedExamples(folder)
        self.collapse = CollapseMonitor(model, config.warmup_steps, config.steps)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Load weights, averages, optimizer state and step from a checkpoint of this stage."""
        assert checkpoint.stage == self.stage
        group, metadata = self.processes.cpu_group, checkpoint.metadata
        checkpoint.read_into(self.model.state_dict(), "model.", group)
        checkpoint.read_into(self.ema.module.state_dict(), "ema.", group)
        if self.posthoc_ema:
            checkpoint.read_into(self.posthoc_ema.state(), PREFIX, group)
        moments = empty_optimizer_state(self.optimizer, checkpoint.shapes("optimizer."))
        checkpoint.read_into(moments, "optimizer.", group)
        load_optimizer_state(self.optimizer, moments, metadata["optimizer"])
        self.step, self.window = checkpoint.step, metadata["window"]
        self.skipped.load(metadata.get("skipped") or metadata.get("left_out", {}))  # its earlier name

    def weights(self) -> dict[str, Tensor]:
        """The model's full tensors; a collective call of all ranks."""
        return {name: full_tensor(tensor) for name, tensor in self.model.state_dict().items()}

    def run(self) -> None:
        """Train to the last step of the config, save it, and put the averaged weights into the model.

        Raises:
            NonFiniteLoss: with step, term and images; the last checkpoint is from before.
            RunStopped: by a signal; the last checkpoint is of the step at which it came.
        """
        if self.config.compile is True:
            compile_blocks(nn.ModuleDict({name: getattr(self.model, name) for name in STAGES[self.stage]}))
        profiling: AbstractContextManager[Callable[[], None]] = nullcontext(lambda: None)
        if self.options.profile:
            profiling = profile_steps(self.folder / "profile", self.stage, self.model.device)
        with MetricsLog(self.folder, self.stage, self.step, enabled=self.processes.is_main) as log:
            checkpoints = self._manager("checkpoints", self.config.milestone_every)
            if self.processes.is_main:
                checkpoints.finish_deletion(self.stage, self.step)
            if self.step < self.config.steps:
                if self.processes.is_main:  # snapshots of an earlier attempt, whose settings may have been others
                    CheckpointManager(self.folder / SNAPSHOTS).delete_after(self.stage, self.step)
                with (
                    AsyncCheckpointer(checkpoints, self.processes) as checkpointer,
                    StopSignals() as signals,
                    watchdog() as reset_watchdog,
                    profiling as advance_profiler,
                ):
                    for _ in self._steps(log, checkpointer, signals):
                        reset_watchdog()
                        advance_profiler()
        self.networks.load_state_dict(self.ema.module.state_dict())
        self.model.eval().requires_grad_(False)

    def _steps(self, log: MetricsLog, checkpointer: AsyncCheckpointer, signals: StopSignals) -> Iterator[None]:
        """The training loop; yields after every step is launched, before its metrics are read."""
        config, processes = self.config, self.processes
        stream = batches(
            self.source,
            config.batch_size,
            seed=derive_seed(config.seed, self.stage, "data"),
            start=self.step * config.batch_size,
            workers=config.workers,
            shard=StreamShard(processes.rank, processes.world_size),
        )
        row_started, row_start, data_wait = time.perf_counter(), self.step, 0.0
        in_flight: deque[StepMetrics] = deque()  # of steps that the device may still be computing
        while self.step < config.steps:
            wait_started = time.perf_counter()
            with record_function("data"):
                batch = next(stream)
            data_wait += time.perf_counter() - wait_started
            self.skipped.add(batch["skipped"])
            in_flight.append(self._step(batch, stop=signals.received > 0))
            self.step += 1
            yield
            is_last = self.step == config.steps
            log_now = is_last or self.step % config.log_every == 0
            save_now = is_last or self.step % config.checkpoint_every == 0
            posthoc = config.posthoc_ema
            snapshot_now = posthoc is not None and (is_last or self.step % posthoc.snapshot_every == 0)
            stopped = False
            while len(in_flight) > (0 if log_now or save_now or snapshot_now or stopped else 1):
                stopped |= self._accumulate(in_flight.popleft())
            row = None
            if log_now:
                seconds = time.perf_counter() - row_started
                speed = (self.step - row_start) * config.batch_size / seconds
                row = self._row(batch["images"], speed, data_wait / seconds)
                log.write(row)
                row_started, row_start, data_wait = time.perf_counter(), self.step, 0.0
            if posthoc and snapshot_now:  # before the checkpoint, so that a resumed run has all earlier snapshots
                checkpointer.save(self._snapshot(), self._manager(SNAPSHOTS, posthoc.snapshot_every))
            if save_now or stopped:
                checkpointer.save(self._state())
                self.options.on_checkpoint(self.step)
            if is_last:
                checkpointer.wait(required=True)
            self.options.on_step(self.step, row)
            if stopped:
                raise RunStopped(max(processes.all_gather(signals.received)), f"{self.stage} step {self.step}")

    def _step(self, batch: Batch, *, stop: bool = False) -> StepMetrics:
        """One optimizer step: loss, gradient, update, moving average. Its metrics are on their way to the host."""
        config, parts = self.config, self.config.accumulate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config) * group.get("lr_scale", 1.0)
        terms: dict[str, Tensor] = {}
        for part in range(parts):
            size = self.local_batch // parts
            x, conditions = self._to_device(batch, slice(part * size, (part + 1) * size))
            noise = self._noise(part * size, size)
            with self._no_sync() if part < parts - 1 else nullcontext():
                with record_function("forward"), self.autocast:
                    losses = self.loss(x, conditions, noise, self._prior_gradient())
                with record_function("backward"):
                    (losses["loss"] / parts).backward()
            for name, value in losses.items():
                terms[name] = terms.get(name, 0) + value.detach() / parts
        limit = float("inf") if config.grad_clip is None else config.grad_clip
        norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        terms["grad_norm"] = full_tensor(norm) if self.sharded else norm
        metrics = StepMetrics.start_copy(self.stage, self.step + 1, terms, batch["key"], stop, self.processes)
        with record_function("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        for schedule in self.schedules:
            schedule.update(self.processes.sum)
        with record_function("average"):
            self.ema.update(self.networks, self.step)
            if self.posthoc_ema:
                self.posthoc_ema.update(self.networks.state_dict(), self.step + 1)
        return metrics

    def _to_device(self, batch: Batch, rows: slice) -> tuple[Tensor, Conditions]:
        """Some rows of a batch, copied without waiting: to a GPU from pinned memory."""
        device = self.model.device
        x, labels, text = batch["x"][rows], batch["label"][rows], batch["text"] and batch["text"].part(rows)
        if device.type == "cuda":
            x, labels, text = x.pin_memory(), labels.pin_memory(), text and text.pin_memory()
        conditions = Conditions(labels.to(device, non_blocking=True), text and text.to(device))
        return x.to(device, non_blocking=True), conditions

    def _manager(self, name: str, milestone_every: int | None) -> CheckpointManager:
        """A folder of checkpoints in the run directory, and its copies."""
        root = self.options.remote
        remote = RemoteCheckpoints(root / name, milestone_every) if root else None
        return CheckpointManager(self.folder / name, milestone_every, remote)

    def _noise(self, position: int, size: int) -> ExampleNoise:
        """Noise of the `size` examples from `position` on in this rank's share of the batch; seeds dropout too."""
        start = self.step * self.config.batch_size
        position += self.processes.rank * self.local_batch
        seed = (self.config.seed, self.stage, "noise")
        torch.manual_seed(derive_seed(*seed, "dropout", start + position))
        seeds = [derive_seed(*seed, n) for n in range(start + position, start + position + size)]
        shared = derive_seed(*seed, "batch", start)
        return ExampleNoise(seeds, shared, position, self.config.batch_size, self.model.device)

    def _prior_gradient(self) -> float:
        """Scale of the rate's gradient to the encoder: 1 as in the paper, less during `prior_warmup_steps`."""
        warmup = self.config.prior_warmup_steps if isinstance(self.config, configs.LatentsStageConfig) else 0
        return min(1.0, self.step / warmup) if warmup else 1.0

    def _no_sync(self) -> AbstractContextManager[None]:
        """DDP averages gradients over the ranks with the last part of a batch only."""
        return self.loss.no_sync() if isinstance(self.loss, DistributedDataParallel) else nullcontext()

    def _accumulate(self, metrics: StepMetrics) -> bool:
        """Add the metrics of a step to the window; return whether a rank was asked to stop."""
        values = metrics.result(self.processes)
        stop = values.pop("stop") > 0
        for name, value in values.items():
            self.window[name] = self.window.get(name, 0.0) + value
        self.window["steps"] = self.window.get("steps", 0) + 1
        return stop

    def _row(self, images: int, images_per_second: float, data_wait: float) -> LogRow:
        """The row of the log for the steps since the last one."""
        steps = self.window.pop("steps")
        means = {name: total / steps for name, total in self.window.items()}
        self.window = {}
        row: LogRow = {
            "stage": self.stage,
            "step": self.step,
            "images": images,
            **means,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": images_per_second,
            "data_wait": data_wait,
        }
        for reasons in self.processes.all_gather(self.skipped.reasons):
            self.skipped.add(reasons)
        if skipped := self.skipped.write(enabled=self.processes.is_main):
            row["skipped"] = skipped
        if self.stage == "latents":
            rate = "low_rate_bits_per_pixel" if "low_rate_bits_per_pixel" in row else "rate_bits_per_pixel"
            self.collapse.check(self.step, row[rate])
        return row

    def _state(self) -> TrainingState:
        moments, state = optimizer_state(self.optimizer)
        parts = {"model": self.model.state_dict(), "ema": self.ema.module.state_dict(), "optimizer": moments}
        tensors = {f"{part}.{name}": tensor for part, content in parts.items() for name, tensor in content.items()}
        tensors |= self._posthoc_tensors()
        metadata = {
            "images": self.step * self.config.batch_size,
            "window": dict(self.window),
            "optimizer": state,
            **self.options.identity,
        }
        if self.skipped.reasons:
            metadata["skipped"] = self.skipped.state()
        return TrainingState(self.stage, self.step, tensors, metadata)

    def _snapshot(self) -> TrainingState:
        """The averages by power functions alone."""
        return TrainingState(self.stage, self.step, self._posthoc_tensors(), dict(self.options.identity))

    def _posthoc_tensors(self) -> dict[str, Tensor]:
        return {PREFIX + name: tensor for name, tensor in self.posthoc_ema.state().items()} if self.posthoc_ema else {}
