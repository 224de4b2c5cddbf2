"""The shapes and defaults that a compiled model promises, the checks of its methods' arguments, and its stages."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from ulzoo.model.conditioning import Conditions
    from ulzoo.model.rate_control import ControlValue, RateControl
    from ulzoo.nn.conditioning import NetworkConditions

MAX_PIXEL = 16.0  # far outside [-1, 1], within which noise and interpolation may leave it; 255 is beyond

Stage = Literal["latents", "decoder", "distill", "base"]
NetworkName = Literal["encoder", "prior", "decoder", "final_decoder", "distilled", "base"]
DecoderName = Literal["decoder", "distilled"]
DistilledTarget = Literal["data", "teacher"]
STAGES: dict[Stage, tuple[NetworkName, ...]] = {
    "latents": ("encoder", "prior", "decoder"),
    "decoder": ("final_decoder",),
    "distill": ("distilled",),
    "base": ("base",),
}
"""The networks of each stage, in order; a model has the stages whose last network it has."""


NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
"""All networks that a model may have, in order of the stages that train them."""


def default_batch_size(video: bool) -> int:
    """Examples that are processed together unless a caller says otherwise."""
    return 8 if video else 64


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
        decodes_clean: the encoder's decoder takes z_clean, which sampling ends with, so that z_0 stands for z_clean.
        num_classes: number of class labels; 0 if there are none.
        label_names: names of the labels, if the data has them.
        sampling: defaults for "base" and "decoder".
        context_frames: number of first frames of a clip that the model continues; 0 if it generates whole clips only.
        frame_rate: frames per second of a clip, if the data has one.
        learned_variance: the encoder has a learned variance (paper, Table 6 D).
        single_stage: there is no base, the prior samples (paper, Appendix B).
        text_tokens, text_width: shape of the token embeddings of a caption; 0 if there are no captions.
        frozen: networks that no stage trains.
        distilled_steps: numbers of steps that the distilled decoder samples in; empty if there is none.
        rate_controls: the loss factor and the bias, as far as they vary; empty for a model of one rate.
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
    frozen: tuple[NetworkName, ...] = ()
    decodes_clean: bool = False
    distilled_steps: tuple[int, ...] = ()
    rate_controls: tuple["RateControl", ...] = ()

    def trained_networks(self, stage: Stage) -> tuple[NetworkName, ...]:
        """The networks that a stage trains: its own, but for the frozen ones."""
        return tuple(name for name in STAGES[stage] if name not in self.frozen)

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

    @property
    def default_rate(self) -> dict[str, float]:
        """The loss factor and bias of calls that give none, of those that vary; {} for a model of one rate."""
        return {control.name: control.default for control in self.rate_controls}

    @property
    def decoded_logsnr(self) -> float:
        """The log-SNR of the latents that are decoded: λ_z(0), or infinity if they are z_clean."""
        return math.inf if self.decodes_clean else self.latent_logsnr

    def sampling_with(self, network: Literal["base", "decoder"], steps: int | None, guidance: float | None) -> Sampling:
        """How the network is sampled, by default but for what is not None."""
        default = self.sampling[network]
        return replace(
            default,
            steps=default.steps if steps is None else steps,
            guidance=default.guidance if guidance is None else guidance,
        )

    def batches(self, n: int, batch_size: int | None) -> list[slice]:
        """The rows of n examples in batches, by default of 64 images or 8 clips."""
        size = batch_size or default_batch_size(self.video)
        return [slice(start, min(start + size, n)) for start in range(0, max(n, 1), size)]

    # ---------------------------------------------------------------------------------- arguments of public methods

    def check_x(self, x: "Tensor", name: str = "x") -> None:
        """Raise ValueError unless x is floating point and about in [-1, 1]. Its shape is checked when it is encoded."""
        if not x.is_floating_point():
            raise ValueError(
                f"{name} must be floating point in [-1, 1], got {x.dtype}; ulzoo.media.pixels.from_uint8 converts"
            )
        if x.numel() and not (largest := x.abs().max()) <= MAX_PIXEL:
            raise ValueError(
                f"{name} must be in [-1, 1], got values up to {largest:g}; ulzoo.media.pixels.from_uint8 converts"
            )

    def check_labels_and_text(self, conditions: "NetworkConditions", n: int, num_classes: int) -> None:
        """Raise ValueError unless labels and captions are those of n examples, and labels those of the network."""
        labels, text = conditions.labels, conditions.text
        if labels is not None:
            if labels.shape != (n,):
                raise ValueError(f"labels must have shape ({n},), got {tuple(labels.shape)}")
            if ((labels < -1) | (labels >= num_classes)).any():
                raise ValueError(f"labels must be 0 to {num_classes - 1}, or -1 for none, got {labels.tolist()}")
        if text is not None:
            expected = (n, self.text_tokens, self.text_width), (n, self.text_tokens)
            if (tuple(text.tokens.shape), tuple(text.mask.shape)) != expected:
                raise ValueError(
                    f"text must have tokens of shape {expected[0]} and a mask of shape {expected[1]}, "
                    f"got {tuple(text.tokens.shape)} and {tuple(text.mask.shape)}"
                )

    def check_rate(self, name: str, value: "ControlValue", n: int | None) -> None:
        """Raise ValueError or TypeError unless it varies and is a number in its range, or one for each example."""
        control = next((control for control in self.rate_controls if control.name == name), None)
        if control is None:
            raise ValueError(f"this model was trained at one {name.replace('_', ' ')}: leave out `{name}`")
        control.check(value, n)

    def check_base_rate(self, conditions: "Conditions", network: str) -> None:
        """Raise ValueError unless the base was trained at the loss factor and bias."""
        for control in self.rate_controls if network == "base" else ():
            control.check_base(getattr(conditions, control.name))

    def check_frames(self, frames: "Tensor | None", n: int, *, needed: bool) -> None:
        """Raise ValueError unless the context frames are those of n clips, or absent where they may be."""
        expected = (n, self.channels, self.context_frames, *self.size[1:])
        if not self.context_frames:
            if frames is not None:
                raise ValueError("this model was not compiled for frame conditioning: leave out `frames`")
        elif frames is None:
            if needed:
                raise ValueError(f"this model continues given frames: pass `frames` of shape {expected}")
        elif frames.shape != expected:
            raise ValueError(f"frames must have shape {expected}, got {tuple(frames.shape)}")
