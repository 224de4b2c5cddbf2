"""The one trainer, for every stage: data, loss, step, average, log, checkpoint.

Each image draws its times and noise from a generator seeded by (seed, stage, image counter). So a run that resumes
needs no saved generator and, on the CPU, ends in the same bits as one that was never stopped; and in how many parts, on
how many processes, a batch is computed changes nothing but the order of sums (and the masks of dropout).
"""

import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ulzoo.data import Batch, Source, batches
from ulzoo.diffusion import ExampleNoise, SigmoidWeighting
from ulzoo.model.contract import STAGES, Stage
from ulzoo.model.denoisers import DiffusionModel, RegressionDecoder
from ulzoo.model.losses import StepLoss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.devices import autocast
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup
from ulzoo.runtime.seeds import derive_seed
from ulzoo.training import config as configs
from ulzoo.training.checkpointing import AsyncCheckpointer, Checkpoint, CheckpointManager, TrainingState
from ulzoo.training.interruption import RunStopped, StopSignals, watchdog
from ulzoo.training.monitoring import LogRow, Metrics, SkippedExamples, StepMetrics
from ulzoo.training.optimizers import (
    blank_state,
    build_ema,
    build_optimizer,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)
from ulzoo.training.parallelize import (
    checkpoint_activations,
    compile_blocks,
    full_tensor,
    gradient_sync,
    replicate,
    shard,
)
from ulzoo.training.profiling import profiled

COLLAPSED_BITS_PER_DIMENSION = 0.02


class Trainer:
    """Trains one stage of a model.

    Args:
        model: on its device; the stage's networks are put in training mode, the others frozen.
        stage: "latents", "decoder" or "base".
        config: the stage's keys of the spec.
        source: training images.
        folder: run directory, for checkpoints and metrics.
        identity: goes into every checkpoint: the resolved spec, its hash, versions.
        tensorboard: write TensorBoard events too.
        on_step: called after each step with its number and, where one was logged, the row of metrics; for a display.
        processes: those that train together, each with a share of every batch.
        parallel: how they do; each has the whole model if None.
        profile: write where the time of a few steps goes into `folder`/profile.

    Raises:
        ValueError: the batch cannot be shared out among the processes.
    """

    def __init__(
        self,
        model: UnifiedLatents,
        stage: Stage,
        config: configs.StageConfig,
        source: Source,
        folder: Path,
        identity: dict[str, Any],
        tensorboard: bool = False,
        on_step: Callable[[int, LogRow | None], None] = lambda step, row: None,
        processes: ProcessGroup = SINGLE_PROCESS,
        parallel: configs.ParallelConfig | None = None,
        profile: bool = False,
    ):
        self.model, self.stage, self.config, self.source = model, stage, config, source
        self.folder, self.identity, self.tensorboard, self.on_step = folder, identity, tensorboard, on_step
        self.profile = profile
        self.processes, self.share = processes, processes.local_batch_size(config.batch_size, config.accumulate)
        model.prepare(stage)
        self.networks = nn.ModuleDict({name: getattr(model, name) for name in STAGES[stage]})
        if parallel and parallel.checkpoint_activations:
            checkpoint_activations(self.networks)
        self.ema = build_ema(self.networks, config)
        self.loss: nn.Module = StepLoss(model, stage, source.encoded)
        self.sharded = processes.world_size > 1 and parallel is not None and parallel.kind == "fsdp"
        if self.sharded:
            for networks in (self.networks, cast(nn.ModuleDict, self.ema.module)):
                shard(networks, processes, model.device, config.precision == "bf16")
        else:
            self.loss = replicate(self.loss, processes)
        self.parameters = list(self.networks.parameters())
        self.optimizer = build_optimizer(self.networks, config)
        self.step = 0
        self.window: dict[str, float] = {}
        self.left_out = SkippedExamples(folder)
        self.warned_of_collapse = False

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take weights, averages, optimizer state and step from a checkpoint of this stage."""
        assert checkpoint.stage == self.stage
        group = self.processes.cpu_group
        checkpoint.read_into(self.model.state_dict(), "model.", group)
        checkpoint.read_into(self.ema.module.state_dict(), "ema.", group)
        moments = blank_state(self.optimizer, checkpoint.shapes("optimizer."))
        checkpoint.read_into(moments, "optimizer.", group)
        load_optimizer_state(self.optimizer, moments, checkpoint.metadata["optimizer"])
        self.step, self.window = checkpoint.step, checkpoint.metadata["window"]
        self.left_out.load(checkpoint.metadata.get("left_out", {}))

    def weights(self) -> dict[str, Tensor]:
        """The model's tensors, whole; all processes must ask."""
        return {name: full_tensor(tensor) for name, tensor in self.model.state_dict().items()}

    def run(self) -> None:
        """Train up to the config's last step, save it, and put the averaged weights into the model.

        Raises:
            NonFiniteLoss: names step, term and images; the last checkpoint is from before.
            RunStopped: by a signal; the last checkpoint is of the step at which it came.
        """
        if self.config.compile:
            compile_blocks(self.networks)
        profiling: AbstractContextManager[Callable[[], None]] = nullcontext(lambda: None)
        if self.profile:
            profiling = profiled(self.folder / "profile", self.stage, self.model.device)
        with Metrics(self.folder, self.stage, self.step, self.tensorboard, self.processes.is_main) as metrics:
            if self.step < self.config.steps:
                checkpoints = CheckpointManager(self.folder / "checkpoints", self.config.milestone_every)
                with (
                    AsyncCheckpointer(checkpoints, self.processes) as saver,
                    StopSignals() as signals,
                    watchdog() as alive,
                    profiling as profile_step,
                ):
                    self._train(metrics, saver, signals, (alive, profile_step))
        self.networks.load_state_dict(self.ema.module.state_dict())
        self.model.eval().requires_grad_(False)

    def _train(
        self,
        metrics: Metrics,
        saver: AsyncCheckpointer,
        signals: StopSignals,
        after_step: tuple[Callable[[], None], ...],
    ) -> None:
        config, processes = self.config, self.processes
        seed = derive_seed(config.seed, self.stage, "data")
        start = self.step * config.batch_size
        stream = batches(
            self.source,
            config.batch_size,
            seed=seed,
            start=start,
            workers=config.workers,
            rank=processes.rank,
            ranks=processes.world_size,
        )
        row_started, row_start, waited = time.perf_counter(), self.step, 0.0
        launched: deque[StepMetrics] = deque()  # of the steps that may still be computing
        while self.step < config.steps:
            asked = time.perf_counter()
            with record_function("data"):
                batch = next(stream)
            waited += time.perf_counter() - asked
            self.left_out.add(batch["left_out"])
            launched.append(self._step(batch, signals.received > 0))
            self.step += 1
            for call in after_step:
                call()
            last = self.step == config.steps
            logged, saved = last or self.step % config.log_every == 0, last or self.step % config.checkpoint_every == 0
            stopped = False
            while len(launched) > (0 if logged or saved or stopped else 1):
                stopped |= self._read(launched.popleft())
            row = None
            if logged:
                seconds = time.perf_counter() - row_started
                speed = (self.step - row_start) * config.batch_size / seconds
                row = self._row(batch["images"], speed, waited / seconds)
                metrics.write(row)
                row_started, row_start, waited = time.perf_counter(), self.step, 0.0
            if saved or stopped:
                saver.save(self._state())
            if last:
                saver.wait(required=True)
            self.on_step(self.step, row)
            if stopped:
                raise RunStopped(max(processes.all_gather(signals.received)), f"{self.stage} step {self.step}")

    def _read(self, terms: StepMetrics) -> bool:
        """Add the terms of a step to the window; whether a process wishes to stop."""
        values = terms.read(self.processes)
        stop = values.pop("stop") > 0
        for name, value in values.items():
            self.window[name] = self.window.get(name, 0.0) + value
        self.window["steps"] = self.window.get("steps", 0) + 1
        return stop

    def _step(self, batch: Batch, stop: bool = False) -> StepMetrics:
        """One optimizer step; the terms of its loss, and the wish to "stop", on their way."""
        config, device = self.config, self.model.device
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        size = self.share // config.accumulate
        warmup = cast(configs.LatentsStageConfig, config).prior_warmup_steps if self.stage == "latents" else 0
        gradient = min(1.0, self.step / warmup) if warmup else 1.0
        sums: dict[str, Tensor] = {}
        for part in range(config.accumulate):
            some = slice(part * size, (part + 1) * size)
            x, labels = (self._sent(batch[name][some]) for name in ("x", "label"))
            text = batch["text"] and batch["text"].part(some).to(device)
            with gradient_sync(self.loss, part == config.accumulate - 1):
                with record_function("forward"), autocast(config.precision, device):
                    losses = self.loss(x, labels, text, self._noise(part * size, size), gradient)
                with record_function("backward"):
                    (losses["loss"] / config.accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / config.accumulate
        limit = float("inf") if config.grad_clip is None else config.grad_clip
        sums["grad_norm"] = full_tensor(nn.utils.clip_grad_norm_(self.parameters, limit))
        terms = StepMetrics.send(self.stage, self.step + 1, sums, batch["key"], stop, self.processes)
        with record_function("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        with record_function("average"):
            self.ema.update(self.networks, self.step)
        return terms

    def _sent(self, tensor: Tensor) -> Tensor:
        """To the device, for which nobody waits: to a GPU from pinned memory."""
        device = self.model.device
        return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

    def _noise(self, position: int, size: int) -> ExampleNoise:
        """What `size` examples draw, of which the first is at `position` in this process's share; seeds dropout too."""
        start = self.step * self.config.batch_size
        position += self.processes.rank * self.share
        seed = (self.config.seed, self.stage, "noise")
        torch.manual_seed(derive_seed(*seed, "dropout", start + position))
        each = [derive_seed(*seed, n) for n in range(start + position, start + position + size)]
        shared = derive_seed(*seed, "batch", start)
        return ExampleNoise(each, shared, position, self.config.batch_size, self.model.device)

    def _row(self, images: int, images_per_second: float, data_wait: float) -> LogRow:
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
        for found in self.processes.all_gather(self.left_out.found):
            self.left_out.add(found)
        if left_out := self.left_out.write(self.processes.is_main):
            row["left_out"] = left_out
        self._warn_of_collapse(row)
        return row

    def _warn_of_collapse(self, row: LogRow) -> None:
        """Say once when the rate is near zero: the latent then carries nothing and the decoder paints alone."""
        if self.stage != "latents" or self.warned_of_collapse or self.step < self.config.warmup_steps:
            return
        contract = self.model.contract
        dimensions_per_pixel = contract.latent_dimensions / contract.pixels
        bits = row["rate_bits_per_pixel"]
        if bits / dimensions_per_pixel < COLLAPSED_BITS_PER_DIMENSION:
            warnings.warn(
                f"step {self.step}: the rate is {bits:.4f} bits/pixel, the latent is collapsing; raise {self._knobs()}",
                stacklevel=2,
            )
            self.warned_of_collapse = True

    def _knobs(self) -> str:
        """The keys that keep the rate up, and where they stand."""
        decoder = self.model.decoder
        if isinstance(decoder, RegressionDecoder):
            return f"decoder.weight (now {decoder.weight:g})"
        knobs = "decoder.weighting.loss_factor or decoder.weighting.bias"
        if isinstance(decoder, DiffusionModel) and isinstance(weighting := decoder.weighting, SigmoidWeighting):
            return f"{knobs} (now {weighting.loss_factor:g} and {weighting.bias:g})"
        return knobs

    def _state(self) -> TrainingState:
        moments, state = optimizer_state(self.optimizer)
        parts = {"model": self.model.state_dict(), "ema": self.ema.module.state_dict(), "optimizer": moments}
        tensors = {f"{part}.{name}": tensor for part, content in parts.items() for name, tensor in content.items()}
        images = self.step * self.config.batch_size
        metadata = {"images": images, "window": dict(self.window), "optimizer": state, **self.identity}
        if self.left_out.found:
            metadata["left_out"] = self.left_out.state()
        return TrainingState(self.stage, self.step, tensors, metadata)
