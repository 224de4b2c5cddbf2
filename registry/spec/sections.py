"""The sections of a spec: every key that is not a component's own, its type, bounds, default and help."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, field_validator

from ulzoo.registry.spec.component_table import Choice, ComponentConfig
from ulzoo.registry.spec.components import BACKBONES, DATASETS, SCHEDULES, WEIGHTINGS
from ulzoo.registry.spec.errors import validated
from ulzoo.registry.spec.yaml_source import Node
from ulzoo.training.config import Count, Fraction, LatentsStageConfig, ParallelConfig, PositiveInt, StageConfig


class Section(BaseModel):
    """A mapping of the spec: frozen, unknown keys refused, only finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Section):
    """A whole YAML file, which remembers where its keys stand."""

    _source: Node | None = PrivateAttr(None)

    @classmethod
    def from_source(cls, source: Node) -> Self:
        """Checked; SpecError for the first thing that is wrong, with its file and line."""
        document = validated(cls, source.plain(), source)
        document._source = source
        return document

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Self:
        """The same from plain data, such as `model_dump` gives; errors name key paths only."""
        return validated(cls, data, None)


class LatentConfig(Section):
    """The latent: its channels, its size against the image's, its noise."""

    channels: PositiveInt = Field(description="channels of the latent")
    downsample: tuple[PositiveInt, ...] = Field(
        min_length=2, max_length=3, description="image size over latent size, [h, w], or [t, h, w] for video"
    )
    logsnr: float = Field(default=5.0, description="log-SNR of the latent z_0; the prior's and base's λ(0)")
    variance: Literal["fixed", "learned"] = Field(
        default="fixed", description="learned: the encoder adds noise of its own to z_clean (Table 6 D)"
    )
    logsnr_bias: float | None = Field(
        default=None,
        description="single-stage training: draw each z_0's log-SNR from a logistic around this, up to logsnr (App. B)",
    )


class ConditioningConfig(Section):
    """Frame prediction: the first frames of a clip, given to the base and the decoder, which make the rest."""

    frames: Count = Field(default=0, description="first frames that are given; 0 for none")
    decoder_dropout: Fraction = Field(
        default=0.5, description="share of examples whose given frames are hidden from the decoder in training"
    )
    base_dropout: Fraction = Field(
        default=0.1, description="the same for the base; above 0 in both, whole clips can be sampled too"
    )


class NetworkConfig(Section):
    """A network and what it is told."""

    backbone: Annotated[ComponentConfig, Choice(BACKBONES)] = Field(description="the network")
    class_conditional: bool = Field(default=False, description="give the network the class label")
    label_dropout: Fraction = Field(default=0.1, description="share of examples whose label is hidden, for guidance")
    text_conditional: bool = Field(default=False, description="give the network the caption's token embeddings")
    text_dropout: Fraction = Field(default=0.1, description="share of examples whose caption is hidden, for guidance")

    @property
    def guidable(self) -> bool:
        """Whether it learns with and without what it is told."""
        return (self.class_conditional and self.label_dropout > 0) or (self.text_conditional and self.text_dropout > 0)


class DiffusionConfig(NetworkConfig):
    """One diffusion model: network, noise schedule, parametrisation, loss weight."""

    schedule: Annotated[ComponentConfig, Choice(SCHEDULES, default="cosine")] = Field(
        default_factory=dict, validate_default=True, description="the noise schedule, log-SNR over time"
    )
    prediction: Literal["x", "eps", "v"] = Field(default="v", description="what the network predicts")
    weighting: Annotated[ComponentConfig, Choice(WEIGHTINGS, default="sigmoid")] = Field(
        default_factory=dict, validate_default=True, description="the weight of the loss over log-SNR"
    )


class DiffusionPriorConfig(DiffusionConfig):
    """The paper's prior, a diffusion model whose loss is the rate: only the unweighted ELBO bounds it."""

    kind: Literal["diffusion"] = Field(default="diffusion", description="the prior to use")
    weighting: Annotated[
        ComponentConfig,
        Choice(WEIGHTINGS, default="elbo", only=("elbo",), why="under another weight the encoder hides information"),
    ] = Field(default_factory=dict, validate_default=True, description="the weight of the loss over log-SNR: elbo")
    stop_gradient: bool = Field(default=False, description="keep the rate's gradient from the encoder (Table 6 A)")
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
    latent_logsnr: bool = Field(default=False, description="tell the decoder the latent's log-SNR")


class RegressionDecoderConfig(NetworkConfig):
    """A decoder that regresses x from z_0 (Table 5)."""

    kind: Literal["mse"] = Field(description="the decoder to use")
    weight: float = Field(default=100.0, gt=0, description="of the squared error: L_x = weight/2 ‖x - x̂(z_0)‖²")
    latent_logsnr: bool = Field(default=False, description="tell the decoder the latent's log-SNR")


def _by_kind(default: str, *others: str) -> Discriminator:
    def kind(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, Mapping) else getattr(value, "kind", default)

    return Discriminator(kind, "kind", f"unknown kind; known here: {', '.join((default, *others))}")


PriorConfig = Annotated[
    Annotated[DiffusionPriorConfig, Tag("diffusion")] | Annotated[NormalPriorConfig, Tag("normal")],
    _by_kind("diffusion", "normal"),
]
DecoderConfig = Annotated[
    Annotated[DiffusionDecoderConfig, Tag("diffusion")] | Annotated[RegressionDecoderConfig, Tag("mse")],
    _by_kind("diffusion", "mse"),
]


class LatentsTrainingConfig(LatentsStageConfig):
    """How stage 1 is trained, and on what."""

    data: Annotated[ComponentConfig, Choice(DATASETS)] | None = Field(
        default=None, description="images or clips of stage 1, if others than the spec's data (Table 6 C)"
    )


class BaseTrainingConfig(StageConfig):
    """How stage 2 is trained, and from what."""

    data: (
        Annotated[ComponentConfig, Choice(DATASETS, only=("latents",), why="a base is trained on the spec's data")]
        | None
    ) = Field(default=None, description="the spec's data, encoded beforehand by `ulzoo encode`; null: as it goes")


class TrainConfig(Section):
    """The stages of training; each is there where the spec has what it trains."""

    latents: LatentsTrainingConfig | None = Field(
        default=None, description="stage 1: encoder, prior and decoder, jointly"
    )
    decoder: StageConfig | None = Field(default=None, description="the final decoder on the frozen encoder's latents")
    base: BaseTrainingConfig | None = Field(
        default=None, description="stage 2: the base model on the frozen encoder's latents"
    )
    tensorboard: bool = Field(default=False, description="write TensorBoard events beside metrics.jsonl")
    parallel: ParallelConfig | None = Field(
        default=None, description="how processes started by torchrun train together"
    )


SamplerName = Literal["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde"]


class SamplingConfig(Section):
    """How one diffusion model is sampled unless the caller says otherwise; why so by default: docs/sampling.md."""

    sampler: SamplerName = Field(default="dpmpp_2m_sde", description="the sampler")
    steps: PositiveInt = Field(default=32, description="network evaluations, or twice as many under guidance")
    guidance: float = Field(default=1.0, ge=0, description="classifier-free guidance scale; 1 for none")
    guidance_interval: tuple[float, float] | None = Field(
        default=None, description="guide only where the log-SNR lies in [low, high]; null for everywhere"
    )

    @field_validator("guidance_interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        if interval and interval[0] >= interval[1]:
            raise ValueError(f"the low end {interval[0]:g} is not below the high end {interval[1]:g}")
        return interval


class DecoderSamplingConfig(SamplingConfig):
    """The decoder is told the latent, so fewer steps are enough, of a sampler of first order."""

    sampler: SamplerName = Field(default="ddpm", description="the sampler")
    steps: PositiveInt = Field(default=16, description="network evaluations, or twice as many under guidance")


class SamplersConfig(Section):
    """SamplingConfig of the latent and of the image."""

    base: SamplingConfig = Field(default_factory=SamplingConfig, description="how the base samples the latent")
    decoder: DecoderSamplingConfig = Field(
        default_factory=DecoderSamplingConfig, description="how the decoder samples the image"
    )
