"""The distribution of a rate over log-SNR, latent channels and images, and the standard error of its mean."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ulzoo.diffusion import AdaptiveSchedule, Denoiser, GaussianDiffusion, Noise, Weighting, normal_kl
from ulzoo.evaluation.collected import ExampleValues
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.model.rate import NormalPrior

BINS = 40


@dataclass(frozen=True)
class Draws:
    """The terms of n draws of a rate, in nats.

    Attributes:
        logsnr: (n,), the log-SNR of each draw.
        nats: (n, c), its estimate of the integral over log-SNR, by channel.
        terminal: (n, c), the terminal KL, by channel.
    """

    logsnr: Tensor
    nats: Tensor
    terminal: Tensor


class Recorder(GaussianDiffusion):
    """A diffusion process with the same losses as another one, which keeps their terms."""

    def __init__(self, diffusion: GaussianDiffusion) -> None:
        super().__init__(diffusion.schedule, diffusion.prediction)
        self.terms: dict[str, Tensor] = {}

    @property
    def draws(self) -> Draws:
        return Draws(**self.terms)

    def loss(
        self,
        denoiser: Denoiser,
        x: Tensor,
        *,
        weighting: Weighting | None = None,
        generator: Noise | None = None,
        logsnr_max: Tensor | None = None,
        adaptive: AdaptiveSchedule | None = None,
    ) -> Tensor:
        errors = x.new_empty(0)

        def recorded(x_t: Tensor, logsnr: Tensor) -> Tensor:
            nonlocal errors
            prediction = denoiser(x_t, logsnr)
            denoised = self.to_x(prediction.to(x_t.dtype), x_t=x_t, logsnr=logsnr)
            errors = (x - denoised).float().square().flatten(2).sum(2)  # (B, c); the shares are equal in x, ε and v
            self.terms["logsnr"] = logsnr
            return prediction

        nats = super().loss(
            recorded, x, weighting=weighting, generator=generator, logsnr_max=logsnr_max, adaptive=adaptive
        )
        self.terms["nats"] = nats[:, None] * errors / errors.sum(1, keepdim=True).clamp(min=1e-30)
        return nats

    def terminal_kl(self, x: Tensor) -> Tensor:
        by_channel = normal_kl(x.flatten(0, 1).unsqueeze(1), self.schedule.logsnr_min)
        self.terms["terminal"] = by_channel.reshape(x.shape[:2])
        return super().terminal_kl(x)


class RateMeasurement:
    """Collects the bits of images and how they are distributed, batch by batch.

    Args:
        network: prior or base; for a normal prior, which has no integral over log-SNR, only the bits are collected.
        samples: draws of (t, ε) per image.
    """

    def __init__(self, network: DiffusionModel | NormalPrior, samples: int) -> None:
        self.network, self.samples = network, samples
        self.values = ExampleValues()

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Record the terms of the network's rate in this context, which appends the batch's bits, (B,), to the list."""
        batches: list[Tensor] = []
        if not isinstance(self.network, DiffusionModel):
            yield batches
            self.values.add("bits", batches[0])
            return
        diffusion = self.network.diffusion
        self.network.diffusion = recorder = Recorder(diffusion)
        try:
            yield batches
        finally:
            self.network.diffusion = diffusion
        self.values.add("bits", batches[0])
        self._add(recorder.draws)

    def _add(self, draws: Draws) -> None:
        assert isinstance(self.network, DiffusionModel)
        schedule = self.network.diffusion.schedule
        nats, terminal = (term.cpu().double() for term in (draws.nats, draws.terminal))
        by_draw = nats.sum(1)
        bins = (draws.logsnr.cpu().double() - schedule.logsnr_min) / (schedule.logsnr_max - schedule.logsnr_min) * BINS
        over_logsnr = torch.zeros(BINS, dtype=torch.float64)
        over_logsnr.index_add_(0, bins.long().clamp(0, BINS - 1), by_draw / self.samples)
        self.values.add_to_sum("over_logsnr", over_logsnr)
        self.values.add_to_sum("channels", (nats + terminal).sum(0) / self.samples)
        self.values.add_to_sum("terminal", terminal.sum() / self.samples)
        if self.samples > 1:
            bits = by_draw.reshape(self.samples, -1) / math.log(2)
            self.values.add("variances", bits.var(0) / self.samples)  # of each image's mean over draws

    def metrics(self, prefix: str, pixels: int, dimensions: int) -> dict[str, float]:
        """Means over images, and their standard errors.

        `…_se` is the standard error of the mean over images, which count as independent. `…_mc_se` is the part of it
        that comes from the draws of (t, ε), computed as if they were independent; because they are stratified over t,
        it is an upper bound.

        Args:
            prefix: "" for the prior, "base_" for the base.
            pixels: pixels of an image or clip.
            dimensions: dimensions of the latent.
        """
        bits = self.values.rows("bits")
        metrics = {
            f"{prefix}bits_per_pixel": bits.mean().item() / pixels,
            f"{prefix}bits_per_dimension": bits.mean().item() / dimensions,
        }
        if len(bits) > 1:
            metrics[f"{prefix}bits_per_pixel_se"] = (bits.std() / math.sqrt(len(bits))).item() / pixels
        if "variances" in self.values:
            error = self.values.rows("variances").sum().sqrt().item() / len(bits)
            metrics[f"{prefix}bits_per_pixel_mc_se"] = error / pixels
        return metrics

    def decomposition(self, pixels: int) -> dict[str, Any] | None:
        """The distribution of the bits; None for a normal prior.

        Returns:
            {"logsnr": edges of bins, "bits_per_pixel": bits/pixel of each bin, "terminal": bits/pixel of the terminal
            KL, "encoder": (negative) bits/pixel due to a learned variance of the encoder, "channels": bits/pixel of
            each latent channel, terminal KL included, "images": bits of each image}. Bins, terminal and encoder sum to
            the rate.
        """
        if not isinstance(self.network, DiffusionModel):
            return None
        bits, schedule = self.values.rows("bits"), self.network.diffusion.schedule
        unit = math.log(2) * len(bits) * pixels
        over_logsnr, channels = self.values.sum("over_logsnr"), self.values.sum("channels")
        terminal = self.values.sum("terminal").item()
        total = over_logsnr.sum().item() + terminal
        return {
            "logsnr": torch.linspace(schedule.logsnr_min, schedule.logsnr_max, BINS + 1).tolist(),
            "bits_per_pixel": (over_logsnr / unit).tolist(),
            "terminal": terminal / unit,
            "encoder": bits.mean().item() / pixels - total / unit,
            "channels": (channels / unit).tolist(),
            "images": bits.tolist(),
        }
