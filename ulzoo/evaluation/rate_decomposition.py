"""Where a rate's bits sit: over log-SNR, over the latent's channels and over images, and how sure their mean is."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ulzoo.diffusion import Denoiser, GaussianDiffusion, Noise, Weighting, normal_kl
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.model.rate import NormalPrior

BINS = 40


@dataclass(frozen=True)
class Draws:
    """The terms of a rate, in nats.

    Attributes:
        logsnr: (n,), where each draw fell.
        nats: (n, c), its estimate of the integral over log-SNR, by channel.
        terminal: (n, c), the terminal KL, by channel.
    """

    logsnr: Tensor
    nats: Tensor
    terminal: Tensor


class Recorder(GaussianDiffusion):
    """A diffusion process that keeps the terms of the loss it computes; its numbers are those of the one it records."""

    def __init__(self, recorded: GaussianDiffusion) -> None:
        super().__init__(recorded.schedule, recorded.prediction)
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
    ) -> Tensor:
        errors = x.new_empty(0)

        def watched(x_t: Tensor, logsnr: Tensor) -> Tensor:
            nonlocal errors
            prediction = denoiser(x_t, logsnr)
            denoised = self.to_x(prediction.to(x_t.dtype), x_t, logsnr)
            errors = (x - denoised).float().square().flatten(2).sum(2)  # in x̂, x, ε and v a draw's shares are the same
            self.terms["logsnr"] = logsnr
            return prediction

        nats = super().loss(watched, x, weighting=weighting, generator=generator, logsnr_max=logsnr_max)
        self.terms["nats"] = nats[:, None] * errors / errors.sum(1, keepdim=True).clamp(min=1e-30)
        return nats

    def terminal_kl(self, x: Tensor) -> Tensor:
        by_channel = normal_kl(x.flatten(0, 1).unsqueeze(1), self.schedule.logsnr_min)
        self.terms["terminal"] = by_channel.reshape(x.shape[:2])
        return super().terminal_kl(x)


class RateMeasurement:
    """Bits of images as they stream by, and of what they consist.

    Args:
        network: prior or base; of a normal prior, which has no log-SNRs to integrate over, the images alone.
        samples: draws of (t, ε) per image.
    """

    def __init__(self, network: DiffusionModel | NormalPrior, samples: int) -> None:
        self.network, self.samples = network, samples
        self.bits: list[Tensor] = []  # (B,)
        self.noise: list[Tensor] = []  # (B,), the variance of each image's mean over draws
        self._over_logsnr = torch.zeros(BINS, dtype=torch.float64)
        self._channels: Tensor | float = 0.0
        self._terminal = 0.0

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Within it the network's terms are recorded; what is appended is one batch's bits, (B,)."""
        taken: list[Tensor] = []
        if not isinstance(self.network, DiffusionModel):
            yield taken
            self.bits.append(taken[0].cpu().double())
            return
        plain = self.network.diffusion
        self.network.diffusion = recorder = Recorder(plain)
        try:
            yield taken
        finally:
            self.network.diffusion = plain
        self.bits.append(taken[0].cpu().double())
        self._add(recorder.draws)

    def _add(self, draws: Draws) -> None:
        assert isinstance(self.network, DiffusionModel)
        schedule = self.network.diffusion.schedule
        nats, terminal = (term.cpu().double() for term in (draws.nats, draws.terminal))
        by_draw = nats.sum(1)
        place = (draws.logsnr.cpu().double() - schedule.logsnr_min) / (schedule.logsnr_max - schedule.logsnr_min) * BINS
        self._over_logsnr.index_add_(0, place.long().clamp(0, BINS - 1), by_draw / self.samples)
        self._channels += (nats + terminal).sum(0) / self.samples
        self._terminal += terminal.sum().item() / self.samples
        if self.samples > 1:
            of_images = by_draw.reshape(self.samples, -1) / math.log(2)
            self.noise.append(of_images.var(0) / self.samples)

    def figures(self, prefix: str, pixels: int, dimensions: int) -> dict[str, float]:
        """Means over images; `…_se` is the mean's standard error, in which images count as independent, and `…_mc_se`
        the part of it that is due to the draws of (t, ε), if they were independent: as they are spread evenly over t,
        it is at most so large."""
        bits = torch.cat(self.bits)
        found = {
            f"{prefix}bits_per_pixel": bits.mean().item() / pixels,
            f"{prefix}bits_per_dimension": bits.mean().item() / dimensions,
        }
        if len(bits) > 1:
            found[f"{prefix}bits_per_pixel_se"] = (bits.std() / math.sqrt(len(bits))).item() / pixels
        if self.noise:
            found[f"{prefix}bits_per_pixel_mc_se"] = torch.cat(self.noise).sum().sqrt().item() / len(bits) / pixels
        return found

    def decomposition(self, pixels: int) -> dict[str, Any] | None:
        """{"logsnr": bin edges, "bits_per_pixel": of each bin, "terminal": beyond the last log-SNR, "encoder": what a
        variance of the encoder's own takes off, "channels": bits/pixel of each latent channel (terminal included),
        "images": bits of each}; None for a normal prior. Bins, terminal and encoder add up to the rate."""
        if not isinstance(self.network, DiffusionModel):
            return None
        bits, schedule = torch.cat(self.bits), self.network.diffusion.schedule
        unit = math.log(2) * len(bits) * pixels
        assert isinstance(self._channels, Tensor)
        within = self._over_logsnr.sum().item() + self._terminal
        return {
            "logsnr": torch.linspace(schedule.logsnr_min, schedule.logsnr_max, BINS + 1).tolist(),
            "bits_per_pixel": (self._over_logsnr / unit).tolist(),
            "terminal": self._terminal / unit,
            "encoder": bits.mean().item() / pixels - within / unit,
            "channels": (self._channels / unit).tolist(),
            "images": bits.tolist(),
        }
