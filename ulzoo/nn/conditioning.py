"""What a denoiser is conditioned on besides x_t: noise level, label, caption, context frames and the latent z_0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ulzoo.media.captions import Text
from ulzoo.nn.grid import patchify, upsample, zero_init
from ulzoo.nn.layers import LayerNorm
from ulzoo.nn.skeleton import table


@dataclass(frozen=True)
class DenoiserInputs:
    """The shapes a denoiser is compiled for.

    Attributes:
        size: grid of x_t, (h, w) or (t, h, w).
        channels: channels of x_t and of the prediction.
        latent_size: grid of the latent z_0 that a decoder is conditioned on; empty if there is none.
        latent_channels: channels of that latent.
        num_classes: number of class labels; 0 for an unconditional network.
        frame_channels: channels of the context frames on the grid of x_t, the last one a mask; 0 if there are none.
        text_tokens: largest number of tokens of a caption.
        text_width: channels of the token embeddings; 0 if there are no captions.
        latent_logsnr: whether the network is conditioned on the log-SNR of the latent.
        step_counts: number of step counts that a distilled decoder decodes in; 0 for other networks.
        rate_controls: number of rate controls of a variable-rate model; 0 for others.
    """

    size: tuple[int, ...]
    channels: int
    latent_size: tuple[int, ...] = ()
    latent_channels: int = 0
    num_classes: int = 0
    frame_channels: int = 0
    text_tokens: int = 0
    text_width: int = 0
    latent_logsnr: bool = False
    step_counts: int = 0
    rate_controls: int = 0

    @property
    def input_channels(self) -> int:
        """Channels of `concat_frames`."""
        return self.channels + self.frame_channels


class NetworkConditions(NamedTuple):
    """What a network is conditioned on besides x_t and its log-SNR; None for what it does not take.

    Attributes:
        latent: z_0 for a decoder, (B, c, *latent_size).
        latent_logsnr: log-SNR of z_0, (B,), for a decoder of latents of several noise levels (paper, Appendix B).
        labels: class labels, (B,), -1 for no class.
        text: captions.
        context_frames: the context clip on the grid of x_t, (B, C + 1, t, h, w), the last channel a mask.
        step_count: which of its step counts a distilled decoder decodes in, an index, (B,).
        rate_control: positions of loss factor and bias in their ranges, from 0 to 1, (B, rate_controls).
        gain: scale of the latent that a prior or base models, (B,), of a variable-rate model.
    """

    latent: Tensor | None = None
    latent_logsnr: Tensor | None = None
    labels: Tensor | None = None
    text: Text | None = None
    context_frames: Tensor | None = None
    step_count: Tensor | None = None
    rate_control: Tensor | None = None
    gain: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "NetworkConditions":
        """The same with latent, token embeddings and context frames in `dtype`; log-SNRs stay as they are."""
        latent, text, frames = self.latent, self.text, self.context_frames
        return self._replace(
            latent=None if latent is None else latent.to(dtype),
            text=None if text is None else Text(text.tokens.to(dtype), text.mask),
            context_frames=None if frames is None else frames.to(dtype),
        )

    def repeat(self, times: int) -> "NetworkConditions":
        """The conditions of a batch that is repeated `times` times along its first dimension."""
        repeated: dict[str, Tensor | Text] = {}
        for name, value in self._asdict().items():
            if isinstance(value, Text):
                repeated[name] = value.repeat(times)
            elif value is not None:
                repeated[name] = value.repeat(times, *[1] * (value.ndim - 1))
        return NetworkConditions(**repeated)  # type: ignore[arg-type]


NO_CONDITIONS = NetworkConditions()


def concat_frames(x_t: Tensor, context_frames: Tensor | None) -> Tensor:
    """x_t with the context frames as further channels, (B, channels + frame_channels, *size)."""
    return x_t if context_frames is None else torch.cat([x_t, context_frames], dim=1)


class LogsnrEmbedding(nn.Module):
    """Fourier features of log-SNR through a two-layer perceptron, (B,) -> (B, width): how time enters every network."""

    frequency: Tensor

    def __init__(self, width: int, frequencies: int = 64):
        super().__init__()
        self.register_buffer(
            "frequency", table((frequencies,), lambda: self._frequencies(frequencies)), persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, logsnr: Tensor) -> Tensor:
        angles = logsnr.float()[:, None] * self.frequency
        features = math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, 2 · frequencies)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))

    @staticmethod
    def _frequencies(n: int) -> Tensor:
        """Of wavelengths from 120 down to 2 log-SNR units: from the span of every schedule to neighbouring levels."""
        return 2 * math.pi / 120 * 60 ** torch.linspace(0, 1, n, dtype=torch.float32)

    def _apply(self, fn: Any, recurse: bool = True) -> "LogsnrEmbedding":
        """As for any module, but the frequencies stay in float32: rounded, they would be others."""
        super()._apply(fn, recurse)
        if self.frequency.dtype != torch.float32:
            self.frequency = self._frequencies(len(self.frequency)).to(self.frequency.device)
        return self


RATE_FREQUENCIES = 8


def rate_features(rate_control: Tensor) -> Tensor:
    """√2 cos(πku), k = 1 to 8, of positions u in ranges, (B, controls) -> (B, 8 · controls).

    The features of a log-SNR would hardly differ over the range of a log loss factor.
    """
    k = torch.arange(1, RATE_FREQUENCIES + 1, device=rate_control.device)
    return math.sqrt(2) * (math.pi * k * rate_control.float()[:, :, None]).cos().flatten(1)


class RateControlEmbedding(nn.Module):
    """Features of the rate controls through a layer, (B, controls) -> (B, width)."""

    def __init__(self, controls: int, width: int):
        super().__init__()
        self.proj = nn.Linear(controls * RATE_FREQUENCIES, width)

    def forward(self, rate_control: Tensor | None) -> Tensor:
        assert rate_control is not None
        return torch.nn.functional.silu(self.proj(rate_features(rate_control).to(self.proj.weight.dtype)))


class RateGain(nn.Module):
    """The scale of the latent as a function of the rate controls, (B, controls) -> (B,).

    The larger the latent is, the less of it the noise of z_0 hides. Gains are how variable-rate compression models
    work (arXiv 2003.02012). This one starts as that of Gaussian data; a correction by `rate_features` is learned.

    Args:
        log_gains: for each control the coefficients of a polynomial of its position, the constant first.
    """

    def __init__(self, log_gains: Sequence[Sequence[float]]):
        super().__init__()
        self.log_gains = [list(coefficients) for coefficients in log_gains]
        self.correction = nn.Parameter(torch.zeros(len(log_gains) * RATE_FREQUENCIES))

    def forward(self, rate_control: Tensor) -> Tensor:
        log_gain = rate_features(rate_control) @ self.correction.float()
        for coefficients, position in zip(self.log_gains, rate_control.float().unbind(1), strict=True):
            for power, coefficient in enumerate(coefficients):
                log_gain = log_gain + coefficient * position**power
        return log_gain.exp()


class VectorConditioning(nn.Module):
    """One conditioning vector per example, (B, width), for adaptive norms.

    It is the sum of the embeddings of the log-SNR, of the class label (-1, or None for the batch, is "no class"), of
    whether the example has context frames, of the latent's log-SNR, of a distilled decoder's step count, and of the
    rate controls, as far as the network is compiled for them. The last two start at zero.
    """

    def __init__(self, inputs: DenoiserInputs, width: int):
        super().__init__()
        self.logsnr = LogsnrEmbedding(width)
        self.num_classes = inputs.num_classes
        self.labels = nn.Embedding(inputs.num_classes + 1, width) if inputs.num_classes else None
        self.given = nn.Embedding(2, width) if inputs.frame_channels else None
        self.context_logsnr = LogsnrEmbedding(width) if inputs.latent_logsnr else None
        self.step_count = zero_init(nn.Embedding(inputs.step_counts, width)) if inputs.step_counts else None
        self.rate_control: nn.Module | None = None
        if controls := inputs.rate_controls:
            self.rate_control = nn.Sequential(RateControlEmbedding(controls, width), zero_init(nn.Linear(width, width)))

    def forward(self, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        cond = self.logsnr(logsnr)
        if self.context_logsnr is not None:
            assert conditions.latent_logsnr is not None
            cond = cond + self.context_logsnr(conditions.latent_logsnr)
        if self.step_count is not None:
            assert conditions.step_count is not None
            cond = cond + self.step_count(conditions.step_count)
        if self.rate_control is not None:
            cond = cond + self.rate_control(conditions.rate_control)
        if self.given is not None:
            assert conditions.context_frames is not None
            has_frames = conditions.context_frames[:, -1].flatten(1).any(dim=1).long()  # (B,), by the mask
            cond = cond + self.given(has_frames)
        if self.labels is not None:
            labels = conditions.labels
            if labels is None:
                labels = torch.full(logsnr.shape, -1, device=logsnr.device)
            cond = cond + self.labels(torch.where(labels < 0, self.num_classes, labels))
        return torch.nn.functional.silu(cond)


class LatentProjection(nn.Module):
    """A learned linear projection of the latent z_0, *added* to features on a given grid.

    On a finer grid each latent vector is repeated; on a coarser one its patches are folded into channels first. This is
    how z_0 enters a decoder (not in the paper): as a sum, at the finest features and, in a U-ViT, once more at the
    middle's tokens. Their grid is the latent's own at 512² with 16×16 downsampling, but coarser for Kinetics.
    """

    def __init__(self, inputs: DenoiserInputs, size: Sequence[int], width: int):
        super().__init__()
        pairs = list(zip(size, inputs.latent_size, strict=True))
        if any(fine % coarse for fine, coarse in (sorted(pair, reverse=True) for pair in pairs)):
            raise ValueError(
                f"the grids of the latent {list(inputs.latent_size)} and of the features {list(size)} do not nest"
            )
        self.fold = tuple(max(latent // feature, 1) for feature, latent in pairs)
        self.repeat = tuple(max(feature // latent, 1) for feature, latent in pairs)
        self.proj = nn.Linear(inputs.latent_channels * math.prod(self.fold), width)

    def forward(self, latent: Tensor | None) -> Tensor:
        assert latent is not None
        folded = patchify(latent, self.fold)
        features = self.proj(folded.movedim(1, -1)).movedim(-1, 1)
        return upsample(features, self.repeat)  # (B, width, *size)


class TextTokens(nn.Module):
    """Captions as tokens to attend to: a learned null token, then the embeddings, normalised and projected.

    The null token is always present, so attention is never over an empty set; it is the only token of an empty caption,
    of no caption and of a caption dropped in training. Tokens get no positions: a text encoder has put them in. Padding
    is zeroed here and masked in attention, so its content has no effect. Not in the paper, as all text conditioning.

    Args:
        inputs: shapes, of which `text_width` is used.
        width: channels of the resulting tokens.
    """

    def __init__(self, inputs: DenoiserInputs, width: int):
        super().__init__()
        self.norm = LayerNorm(inputs.text_width)
        self.proj = nn.Linear(inputs.text_width, width)
        self.null = nn.Parameter(table((width,), lambda: torch.randn(width)))

    def forward(self, text: Text | None, n: int) -> Text:
        """(n, L, text_width) -> (n, 1 + L, width); no text gives (n, 1, width)."""
        null = Text(self.null.expand(n, 1, -1), torch.ones(n, 1, dtype=torch.bool, device=self.null.device))
        if text is None:
            return null
        tokens = self.proj(self.norm(text.tokens.masked_fill(~text.mask[:, :, None], 0)))
        return Text(torch.cat([null.tokens, tokens], dim=1), torch.cat([null.mask, text.mask], dim=1))


class GatedInputSkip(nn.Module):
    """Adds x_t to the prediction, times a gain per channel that depends on the conditioning vector.

    Patches of more values than the network is wide keep their detail this way: of v = α/σ x_t - x/σ the network only
    has to model the smooth x. The gains start at zero.
    """

    def __init__(self, channels: int, cond_width: int):
        super().__init__()
        self.gain = zero_init(nn.Linear(cond_width, channels))

    def forward(self, cond: Tensor, x_t: Tensor) -> Tensor:
        return self.gain(cond).reshape(*x_t.shape[:2], *[1] * (x_t.ndim - 2)) * x_t
