"""The sections of a spec: type, bounds, default and help text of every key that no component defines."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, field_validator

from ulzoo.model.contract import DistilledTarget, NetworkName
from ulzoo.registry.spec.component_table import Choice, ComponentConfig
from ulzoo.registry.spec.components import BACKBONES, DATASETS, SCHEDULES, WEIGHTINGS
from ulzoo.registry.spec.errors import validated
from ulzoo.registry.spec.yaml_source import Node
from ulzoo.training.config import (
    Count,
    DistillStageConfig,
    Fraction,
    LatentsStageConfig,
    ParallelConfig,
    PositiveInt,
    StageConfig,
)


class Section(BaseModel):
    """A mapping in a spec: frozen, rejects unknown keys and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Section):
    """A YAML document with the locations of its keys."""

    _source: Node | None = PrivateAttr(None)

    @classmethod
    def from_source(cls, source: Node) -> Self:
        """Validate parsed YAML. Raises SpecError with file and line of the first error."""
        document = validated(cls, source.plain(), source)
        document._source = source
        return document

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Self:
        """Validate plain data, such as the result of `model_dump`; errors give key paths only."""
        return validated(cls, data, None)


class LatentConfig(Section):
    """The latent: channels, size relative to the image, noise."""

    channels: PositiveInt = Field(description="channels of the latent")
    downsample: tuple[PositiveInt, ...] = Field(
        min_length=2, max_length=3, description="image size over latent size, [h, w], or [t, h, w] for video"
    )
    logsnr: float = Field(default=5.0, description="log-SNR of the latent z_0; the prior's and base's λ(0)")
    decoded: Literal["z_clean"] | None = Field(
        default=None,
        description="z_clean: the encoder's own decoder takes latents without noise, so sampling ends with the "
        "prediction of z_clean; null: z_0, noise included",
    )
    variance: Literal["fixed", "learned"] = Field(
        default="fixed", description="learned: the encoder adds noise of its own to z_clean (Table 6 D)"
    )
    logsnr_bias: float | None = Field(
        default=None,
        description="single-stage training: draw each z_0's log-SNR from a logistic around this, up to logsnr (App. B)",
    )


class InitConfig(Section):
    """Weights of another model, from which training starts; those of frozen networks do not change."""

    model: str = Field(
        min_length=1, description="a trained model: released name, run directory, exported file or hf://org/repo"
    )
    sha256: str | None = Field(
        default=None, description="of the model's weights; another model is refused. The spec of a run contains it"
    )
    parts: tuple[NetworkName, ...] | None = Field(
        default=None, min_length=1, description="the networks whose tensors are loaded; null: all that both models have"
    )
    freeze: tuple[NetworkName, ...] = Field(default=(), description="the loaded networks that no stage trains")

    @field_validator("sha256")
    @classmethod
    def _hexadecimal(cls, digest: str | None) -> str | None:
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"a SHA-256 has 64 hexadecimal digits, got {digest!r}")
        return digest


class ConditioningConfig(Section):
    """Frame prediction: the base and the decoder generate a clip given its first frames."""

    frames: Count = Field(default=0, description="number of context frames, the first of the clip; 0 for none")
    decoder_dropout: Fraction = Field(
        default=0.5, description="share of examples whose context frames are dropped from the decoder in training"
    )
    base_dropout: Fraction = Field(
        default=0.1, description="the same for the base; if both are above 0, entire clips can be sampled too"
    )


class NetworkConfig(Section):
    """A network and its conditions."""

    backbone: Annotated[ComponentConfig, Choice(BACKBONES)] = Field(description="the network")
    class_conditional: bool = Field(default=False, description="condition on the class label")
    label_dropout: Fraction = Field(default=0.1, description="share of examples whose label is dropped, for guidance")
    text_conditional: bool = Field(default=False, description="condition on the token embeddings of the caption")
    text_dropout: Fraction = Field(default=0.1, description="share of examples whose caption is dropped, for guidance")

    @property
    def guidable(self) -> bool:
        """Whether it is trained both with and without its conditions, as classifier-free guidance needs."""
        return (self.class_conditional and self.label_dropout > 0) or (self.text_conditional and self.text_dropout > 0)


class DiffusionConfig(NetworkConfig):
    """A diffusion model: network, noise schedule, parametrisation, weighting of the loss."""

    schedule: Annotated[
        ComponentConfig,
        Choice(SCHEDULES, default="cosine", excluded=("adaptive",), why="only the base's schedule adapts in training"),
    ] = Field(default_factory=dict, validate_default=True, description="the noise schedule, log-SNR over time")
    prediction: Literal["x", "eps", "v"] = Field(default="v", description="what the network predicts")
    weighting: Annotated[ComponentConfig, Choice(WEIGHTINGS, default="sigmoid")] = Field(
        default_factory=dict, validate_default=True, description="the weight of the loss over log-SNR"
    )


class BaseConfig(DiffusionConfig):
    """The base, a diffusion model of z_0 that is trained on frozen latents."""

    schedule: Annotated[ComponentConfig, Choice(SCHEDULES, default="cosine")] = Field(
        default_factory=dict, validate_default=True, description="the noise schedule, log-SNR over time"
    )
    loss_factor: float | tuple[float, float] | None = Field(
        default=None, description="of the latents that it models, if the decoder's is a range; null: that range"
    )
    bias: float | tuple[float, float] | None = Field(default=None, description="the same for the decoder's bias")


class DiffusionPriorConfig(DiffusionConfig):
    """The paper's prior, a diffusion model whose loss is the rate; only the unweighted ELBO is an upper bound on it."""

    kind: Literal["diffusion"] = Field(default="diffusion", description="the prior to use")
    weighting: Annotated[
        ComponentConfig,
        Choice(WEIGHTINGS, default="elbo", only=("elbo",), why="under another weight the encoder hides information"),
    ] = Field(default_factory=dict, validate_default=True, description="the weight of the loss over log-SNR: elbo")
    stop_gradient: bool = Field(default=False, description="do not backpropagate the rate into the encoder (Table 6 A)")
    normal_kl: float = Field(
        default=0.0, ge=0, description="weight of z_0's KL to a standard normal in the encoder's loss (Table 6 A)"
    )


class NormalPriorConfig(Section):
    """A standard normal prior, whose KL is the rate (Table 5)."""

    kind: Literal["normal"] = Field(description="the prior to use")
    weight: float = Field(default=1.0, gt=0, description="of the rate in the loss")


class DiffusionDecoderConfig(DiffusionConfig):
    """The paper's decoder, a diffusion model of x given z_0."""

    kind: Literal["diffusion"] = Field(default="diffusion", description="the decoder to use")
    latent_logsnr: bool = Field(default=False, description="condition on the latent's log-SNR")


class RegressionDecoderConfig(NetworkConfig):
    """A decoder that regresses x from z_0 (Table 5)."""

    kind: Literal["mse"] = Field(description="the decoder to use")
    weight: float = Field(default=100.0, gt=0, description="of the squared error: L_x = weight/2 ‖x - x̂(z_0)‖²")
    latent_logsnr: bool = Field(default=False, description="condition on the latent's log-SNR")


def _by_kind(default: str, *others: str) -> Discriminator:
    def kind(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, Mapping) else getattr(value, "kind", default)

    return Discriminator(kind, "kind", f"unknown kind; expected one of: {', '.join((default, *others))}")


PriorConfig = Annotated[
    Annotated[DiffusionPriorConfig, Tag("diffusion")] | Annotated[NormalPriorConfig, Tag("normal")],
    _by_kind("diffusion", "normal"),
]
DecoderConfig = Annotated[
    Annotated[DiffusionDecoderConfig, Tag("diffusion")] | Annotated[RegressionDecoderConfig, Tag("mse")],
    _by_kind("diffusion", "mse"),
]


class DistilledDecoderConfig(Section):
    """A decoder of few steps, distilled from the diffusion decoder, whose backbone it has (not in the paper)."""

    steps: tuple[PositiveInt, ...] = Field(
        default=(1, 2, 4), min_length=1, description="numbers of steps that it decodes in; the largest is the default"
    )
    target: DistilledTarget = Field(
        default="data",
        description="what it learns: data: x itself, sampled by DDPM; teacher: the decoder's steps of DDIM",
    )

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"expected rising numbers, got {', '.join(map(str, steps))}")
        return steps


class LatentsTrainingConfig(LatentsStageConfig):
    """Training of stage 1, and its data."""

    data: Annotated[ComponentConfig, Choice(DATASETS)] | None = Field(
        default=None, description="images or clips of stage 1; null: the spec's data (Table 6 C)"
    )


class BaseTrainingConfig(StageConfig):
    """Training of stage 2, and its data."""

    data: (
        Annotated[ComponentConfig, Choice(DATASETS, only=("latents",), why="a base is trained on the spec's data")]
        | None
    ) = Field(default=None, description="the spec's data, encoded by `ulzoo encode`; null: encode during training")


class TrainConfig(Section):
    """The training stages; each is present if the spec has the networks that it trains."""

    latents: LatentsTrainingConfig | None = Field(
        default=None, description="stage 1: encoder, prior and decoder jointly"
    )
    decoder: StageConfig | None = Field(default=None, description="the final decoder on the frozen encoder's latents")
    distill: DistillStageConfig | None = Field(default=None, description="the distilled decoder")
    base: BaseTrainingConfig | None = Field(
        default=None, description="stage 2: the base model on the frozen encoder's latents"
    )
    tensorboard: bool = Field(default=False, description="the same as logger: [tensorboard]")
    logger: tuple[str, ...] | None = Field(
        default=None, description="tensorboard, wandb, trackio, or a logger of another package; null for none"
    )
    parallel: ParallelConfig | None = Field(
        default=None, description="distributed training by processes that torchrun starts"
    )

    @property
    def loggers(self) -> tuple[str, ...]:
        """The names of the loggers, each once."""
        return tuple(dict.fromkeys([*(["tensorboard"] if self.tensorboard else []), *(self.logger or ())]))


SamplerName = Literal["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde"]


class SamplingConfig(Section):
    """Default sampling options of one diffusion model; docs/sampling.md gives the reasons for these values."""

    sampler: SamplerName = Field(default="dpmpp_2m_sde", description="the sampler")
    steps: PositiveInt = Field(default=32, description="network evaluations, or twice as many under guidance")
    guidance: float = Field(default=1.0, ge=0, description="classifier-free guidance scale; 1 for none")
    guidance_interval: tuple[float, float] | None = Field(
        default=None, description="apply guidance only where the log-SNR is in [low, high]; null for everywhere"
    )

    @field_validator("guidance_interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        if interval and interval[0] >= interval[1]:
            raise ValueError(f"the low end {interval[0]:g} is not below the high end {interval[1]:g}")
        return interval


class DecoderSamplingConfig(SamplingConfig):
    """Sampling options of the decoder, which needs few steps of a first-order sampler as the latent determines x."""

    sampler: SamplerName = Field(default="ddpm", description="the sampler")
    steps: PositiveInt = Field(default=16, description="network evaluations, or twice as many under guidance")


class SamplersConfig(Section):
    """Sampling options of the latent and of the image."""

    base: SamplingConfig = Field(default_factory=SamplingConfig, description="how the base samples the latent")
    decoder: DecoderSamplingConfig = Field(
        default_factory=DecoderSamplingConfig, description="how the decoder samples the image"
    )
