"""The shapes and defaults that a compiled model promises, and which networks each stage trains."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

Stage = Literal["latents", "decoder", "base"]
STAGES: dict[Stage, tuple[str, ...]] = {
    "latents": ("encoder", "prior", "decoder"),
    "decoder": ("final_decoder",),
    "base": ("base",),
}
"""The networks of each stage, in order; a model has the stages whose last network it has."""


@dataclass(frozen=True)
class Sampling:
    """How a diffusion model is sampled: sampler, steps, guidance scale (1 = none) and its log-SNR interval."""

    sampler: str = "ddim"
    steps: int = 50
    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Contract:
    """The shapes, ranges and defaults of a model, so that scripts need no magic numbers.

    Attributes:
        size: (h, w) or (t, h, w) of x, whose values lie in [-1, 1].
        channels: channels of x.
        latent_size: grid of the latent.
        latent_channels: channels of the latent.
        latent_logsnr: λ_z(0), the fixed log-SNR of z_0.
        num_classes: number of class labels; 0 if there are none.
        label_names: names of the labels, if the data has them.
        sampling: defaults for "base" and "decoder".
        context_frames: number of first frames of a clip that the model continues; 0 if it generates whole clips only.
        frame_rate: frames per second of a clip, if the data has one.
        learned_variance: the encoder has a learned variance (paper, Table 6 D).
        single_stage: there is no base, the prior samples (paper, Appendix B).
        text_tokens, text_width: shape of the token embeddings of a caption; 0 if there are no captions.
    """

    size: tuple[int, ...]
    channels: int
    latent_size: tuple[int, ...]
    latent_channels: int
    latent_logsnr: float
    num_classes: int = 0
    label_names: tuple[str, ...] = ()
    sampling: dict[str, Sampling] = field(default_factory=lambda: {"base": Sampling(), "decoder": Sampling()})
    context_frames: int = 0
    frame_rate: float | None = None
    learned_variance: bool = False
    single_stage: bool = False
    text_tokens: int = 0
    text_width: int = 0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C, *size) of x."""
        return (self.channels, *self.size)

    @cached_property
    def video(self) -> bool:
        return len(self.size) == 3

    @cached_property
    def pixels(self) -> int:
        """H·W (T·H·W for video), the one normaliser of both losses."""
        return math.prod(self.size)

    @cached_property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.latent_channels, *self.latent_size)

    @cached_property
    def latent_dimensions(self) -> int:
        """c·h·w (c·t·h·w for video), what bits/dimension are counted over."""
        return math.prod(self.latent_shape)

    def sampling_with(self, network: Literal["base", "decoder"], steps: int | None, guidance: float | None) -> Sampling:
        """How the network is sampled, by default but for what is not None."""
        default = self.sampling[network]
        return replace(
            default,
            steps=default.steps if steps is None else steps,
            guidance=default.guidance if guidance is None else guidance,
        )
