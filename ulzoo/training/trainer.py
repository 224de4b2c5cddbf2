"""The one trainer, for every stage: data, loss, step, average, log, checkpoint.

Randomness is seeded anew at every step from (seed, stage, image counter), so a run that resumes needs no saved
generator and, on the CPU, ends in the same bits as one that was never stopped.
"""

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ulzoo.contract import STAGES, Stage
from ulzoo.data import Batch, Source, batches
from ulzoo.denoising import Conditional, DiffusionModel
from ulzoo.diffusion import SigmoidWeighting
from ulzoo.model import UnifiedLatents
from ulzoo.objectives import latents_loss, stage_loss
from ulzoo.regression import RegressionDecoder
from ulzoo.seeds import derive_seed
from ulzoo.text import Text
from ulzoo.training import config as configs
from ulzoo.training.checkpoints import Checkpoint, Checkpoints
from ulzoo.training.left_out import LeftOut
from ulzoo.training.metrics import Metrics, Row
from ulzoo.training.optimization import (
    build_ema,
    build_optimizer,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)
from ulzoo.training.precision import autocast

COLLAPSED_BITS_PER_DIMENSION = 0.02


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient became NaN or infinite; nothing of that step was applied."""


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
    """

    def __init__(
        self,
        model: UnifiedLatents,
        stage: Stage,
        config: configs.Stage,
        source: Source,
        folder: Path,
        identity: dict[str, Any],
        tensorboard: bool = False,
        on_step: Callable[[int, Row | None], None] = lambda step, row: None,
    ):
        self.model, self.stage, self.config, self.source = model, stage, config, source
        self.folder, self.identity, self.tensorboard, self.on_step = folder, identity, tensorboard, on_step
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.parameters = model.prepare(stage)
        self.networks = nn.ModuleDict({name: getattr(model, name) for name in STAGES[stage]})
        self.optimizer = build_optimizer(self.networks, config)
        self.ema = build_ema(self.networks, config)
        self.step = 0
        self.window: dict[str, float] = {}
        self.left_out = LeftOut(folder)
        self.warned_of_collapse = False

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take weights, averages, optimizer state and step from a checkpoint of this stage."""
        assert checkpoint.stage == self.stage
        self.model.load_state_dict(checkpoint.part("model."))
        self.ema.module.load_state_dict(checkpoint.part("ema."))
        load_optimizer_state(self.optimizer, checkpoint.part("optimizer."), checkpoint.metadata["optimizer"])
        self.step, self.window = checkpoint.step, checkpoint.metadata["window"]
        self.left_out.load(checkpoint.metadata.get("left_out", {}))

    def run(self) -> None:
        """Train up to the config's last step, save it, and put the averaged weights into the model.

        Raises:
            NonFiniteLoss: names step, term and images; the last checkpoint is from before.
        """
        if self.config.compile:
            for part in self.networks.values():
                (part.network if isinstance(part, Conditional) else part).compile()
        metrics = Metrics(self.folder, self.stage, self.step, self.tensorboard)
        try:
            if self.step < self.config.steps:
                self._train(metrics)
        finally:
            metrics.close()
        self.networks.load_state_dict(self.ema.module.state_dict())
        self.model.eval().requires_grad_(False)

    def _train(self, metrics: Metrics) -> None:
        config = self.config
        seed = derive_seed(config.seed, self.stage, "data")
        start = self.step * config.batch_size
        stream = batches(self.source, config.batch_size, seed=seed, start=start, workers=config.workers)
        row_started, row_start, waited = time.perf_counter(), self.step, 0.0
        while self.step < config.steps:
            asked = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - asked
            self.left_out.add(batch["left_out"])
            terms = self._step(batch)
            self.step += 1
            for name, value in terms.items():
                self.window[name] = self.window.get(name, 0.0) + value
            self.window["steps"] = self.window.get("steps", 0) + 1
            row = None
            if self.step % config.log_every == 0 or self.step == config.steps:
                seconds = time.perf_counter() - row_started
                speed = (self.step - row_start) * config.batch_size / seconds
                row = self._row(batch["images"], speed, waited / seconds)
                metrics.write(row)
                row_started, row_start, waited = time.perf_counter(), self.step, 0.0
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self.checkpoints.save(self._checkpoint())
            self.on_step(self.step, row)

    def _step(self, batch: Batch) -> dict[str, float]:
        """One optimizer step; the terms of its loss."""
        config, device = self.config, self.model.device
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        size = config.batch_size // config.accumulate
        sums: dict[str, Tensor] = {}
        for part in range(config.accumulate):
            some = slice(part * size, (part + 1) * size)
            x, labels = (batch[name][some].to(device, non_blocking=True) for name in ("x", "label"))
            text = batch["text"] and batch["text"].part(some).to(device)
            torch.manual_seed(derive_seed(config.seed, self.stage, "noise", self.step * config.batch_size, part))
            with autocast(config.precision, device):
                terms = self._loss(x, labels, text)
            (terms["loss"] / config.accumulate).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach() / config.accumulate
        limit = float("inf") if config.grad_clip is None else config.grad_clip
        sums["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, limit)
        values = dict(zip(sums, torch.stack([value.float() for value in sums.values()]).tolist(), strict=True))
        self._check_finite(values, batch["key"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.networks, self.step)
        return values

    def _loss(self, x: Tensor, labels: Tensor, text: Text | None) -> dict[str, Tensor]:
        if self.stage != "latents":
            return {"loss": stage_loss(self.model, self.stage, x, labels, text, encoded=self.source.encoded)}
        warmup = cast(configs.LatentsStage, self.config).prior_warmup_steps
        gradient = min(1.0, self.step / warmup) if warmup else 1.0
        loss = latents_loss(self.model, x, labels, text, prior_gradient=gradient)
        pixels = loss.pixels
        return {
            "loss": loss.total,
            "rate_bits_per_pixel": loss.rate.mean() / pixels / math.log(2),
            "distortion": loss.distortion.mean() / pixels,
        }

    def _check_finite(self, values: dict[str, float], keys: list[str]) -> None:
        for name in ("rate_bits_per_pixel", "distortion", "loss", "grad_norm"):
            if name in values and not math.isfinite(values[name]):
                shown = ", ".join(keys[:8]) + (f", … ({len(keys)} in all)" if len(keys) > 8 else "")
                raise NonFiniteLoss(
                    f"stage {self.stage}, step {self.step + 1}: {name} is {values[name]} on the images {shown}; "
                    "the step was not applied and the last checkpoint is kept"
                )

    def _row(self, images: int, images_per_second: float, data_wait: float) -> Row:
        steps = self.window.pop("steps")
        means = {name: total / steps for name, total in self.window.items()}
        self.window = {}
        row: Row = {
            "stage": self.stage,
            "step": self.step,
            "images": images,
            **means,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": images_per_second,
            "data_wait": data_wait,
        }
        if left_out := self.left_out.write():
            row["left_out"] = left_out
        self._warn_of_collapse(row)
        return row

    def _warn_of_collapse(self, row: Row) -> None:
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

    def _checkpoint(self) -> Checkpoint:
        moments, state = optimizer_state(self.optimizer)
        parts = {"model": self.model.state_dict(), "ema": self.ema.module.state_dict(), "optimizer": moments}
        tensors = {f"{part}.{name}": tensor for part, content in parts.items() for name, tensor in content.items()}
        images = self.step * self.config.batch_size
        metadata = {"images": images, "window": self.window, "optimizer": state, **self.identity}
        if self.left_out.found:
            metadata["left_out"] = self.left_out.state()
        return Checkpoint(self.stage, self.step, tensors, metadata)
