"""What a spec is: every key that is not a component's own, its type, bounds, default and help."""

import hashlib
import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from ulzoo.registry.components import BACKBONES, DATASETS, ENCODERS, SCHEDULES, WEIGHTINGS
from ulzoo.registry.table import Choice, Config, error_at
from ulzoo.registry.yaml_source import Node, SpecError, dump_yaml, located
from ulzoo.training.config import Count, Fraction, LatentsStage, PositiveInt, Stage


class Section(BaseModel):
    """A mapping of the spec: frozen, unknown keys refused, only finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Latent(Section):
    """The latent: its channels, its size against the image's, its noise."""

    channels: PositiveInt = Field(description="channels of the latent")
    downsample: tuple[PositiveInt, ...] = Field(
        min_length=2, max_length=3, description="image size over latent size, [h, w], or [t, h, w] for video"
    )
    logsnr: float = Field(default=5.0, description="log-SNR of the latent z_0; the prior's and base's λ(0)")


class Conditioning(Section):
    """Frame prediction: the first frames of a clip, given to the base and the decoder, which make the rest."""

    frames: Count = Field(default=0, description="first frames that are given; 0 for none")
    decoder_dropout: Fraction = Field(
        default=0.5, description="share of examples whose given frames are hidden from the decoder in training"
    )
    base_dropout: Fraction = Field(
        default=0.1, description="the same for the base; above 0 in both, whole clips can be sampled too"
    )


class Diffusion(Section):
    """One diffusion model: network, noise schedule, parametrisation, loss weight."""

    backbone: Annotated[Config, Choice(BACKBONES)] = Field(description="the network")
    schedule: Annotated[Config, Choice(SCHEDULES, default="cosine")] = Field(
        default_factory=dict, validate_default=True, description="the noise schedule, log-SNR over time"
    )
    prediction: Literal["x", "eps", "v"] = Field(default="v", description="what the network predicts")
    weighting: Annotated[Config, Choice(WEIGHTINGS, default="sigmoid")] = Field(
        default_factory=dict, validate_default=True, description="the weight of the loss over log-SNR"
    )
    class_conditional: bool = Field(default=False, description="give the network the class label")
    label_dropout: Fraction = Field(default=0.1, description="share of examples whose label is hidden, for guidance")


class Prior(Diffusion):
    """The prior, whose loss is the rate: only the unweighted ELBO bounds it."""

    weighting: Annotated[
        Config,
        Choice(WEIGHTINGS, default="elbo", only=("elbo",), why="under another weight the encoder hides information"),
    ] = Field(default_factory=dict, validate_default=True, description="the weight of the loss over log-SNR: elbo")


class Train(Section):
    """The two stages of training."""

    latents: LatentsStage = Field(description="stage 1: encoder, prior and decoder, jointly")
    base: Stage = Field(description="stage 2: the base model on the frozen encoder's latents")
    tensorboard: bool = Field(default=False, description="write TensorBoard events beside metrics.jsonl")


class Sampling(Section):
    """How one diffusion model is sampled unless the caller says otherwise."""

    sampler: Literal["ddpm", "ddim", "dpmpp_2m"] = Field(default="ddim", description="the sampler")
    steps: PositiveInt = Field(default=50, description="network evaluations, or twice as many under guidance")
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


class Samplings(Section):
    """Sampling of the latent and of the image."""

    base: Sampling = Field(default_factory=Sampling, description="how the base samples the latent")
    decoder: Sampling = Field(default_factory=Sampling, description="how the decoder samples the image")


class Spec(Section):
    """The whole model: data, encoder, prior, decoder, base, how they are trained and sampled."""

    name: str = Field(description="name of the model; letters, digits, dot, dash and underscore")
    description: str = Field(default="", description="one line on what it is; changes nothing")
    data: Annotated[Config, Choice(DATASETS)] = Field(description="the images or video clips")
    latent: Latent = Field(description="the latent's shape and noise")
    encoder: Annotated[Config, Choice(ENCODERS)] = Field(description="image or clip to clean latent")
    conditioning: Conditioning = Field(default_factory=Conditioning, description="frame prediction, of video")
    prior: Prior = Field(description="diffusion model of the latent that measures the rate in stage 1")
    decoder: Diffusion = Field(description="diffusion model of the image or clip given the latent")
    base: Diffusion = Field(description="diffusion model of the latent that samples it, trained in stage 2")
    train: Train = Field(description="training")
    sample: Samplings = Field(default_factory=Samplings, description="sampling")

    _source: Node | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"{name!r} may hold letters, digits, '.', '-' and '_' only, and starts with the former")
        return name

    @model_validator(mode="before")
    @classmethod
    def _give_logsnr(cls, data: Any) -> Any:
        """Fill in the prior's and base's λ(0): it is the latent's log-SNR, typed once."""
        if not isinstance(data, Mapping):
            return data
        latent = data.get("latent")
        default = Latent.model_fields["logsnr"].default
        logsnr = latent.get("logsnr", default) if isinstance(latent, Mapping) else getattr(latent, "logsnr", default)
        try:
            float(logsnr)
        except (TypeError, ValueError):
            return data  # latent.logsnr is the error to speak of
        given = dict(data)
        for part in ("prior", "base"):
            model = given.get(part)
            if isinstance(model, Mapping) and isinstance(schedule := model.get("schedule", {}), Mapping):
                given[part] = {**model, "schedule": {"logsnr_max": logsnr, **schedule}}
        return given

    @model_validator(mode="after")
    def _one_logsnr(self) -> "Spec":
        for part, model in (("prior", self.prior), ("base", self.base)):
            logsnr_max = getattr(model.schedule, "logsnr_max", self.latent.logsnr)
            if logsnr_max != self.latent.logsnr:
                raise error_at(
                    (part, "schedule", "logsnr_max"),
                    f"{logsnr_max:g} is not latent.logsnr, {self.latent.logsnr:g}; leave it out, it is derived",
                )
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.hash)

    def to_dict(self) -> dict[str, Any]:
        """The resolved spec, every default written out, as plain data that JSON can hold."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved spec as YAML; loads back to an equal spec."""
        return dump_yaml(self.to_dict())

    @property
    def hash(self) -> str:
        """SHA-256 in hex of everything but the description; the same for every way to write the same spec."""
        content = {key: value for key, value in self.to_dict().items() if key != "description"}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def error(self, path: str, message: str) -> SpecError:
        """The error to raise about the key `path`, with the file and line where it stands if the spec has a source."""
        return located(self._source, tuple(path.split(".")) if path else (), message)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keyed by dotted path; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def diff(a: Spec, b: Spec) -> dict[str, tuple[Any, Any]]:
    """Key path -> (value in a, value in b) wherever they differ; None where a spec has no such key."""
    left, right = flatten(a.to_dict()), flatten(b.to_dict())
    paths = [*left, *(path for path in right if path not in left)]
    absent = object()
    return {
        path: (left.get(path), right.get(path)) for path in paths if left.get(path, absent) != right.get(path, absent)
    }


RESUMABLE = (
    "description",
    "data.root",
    "data.download",
    "data.verify",
    "sample.*",
    "train.tensorboard",
    "train.*.steps",
    "train.*.checkpoint_every",
    "train.*.log_every",
    "train.*.compile",
    "train.*.workers",
)
"""Key paths, with wildcards, that may differ between a run and its resumption: length, logging, hardware."""


def changed_on_resume(old: Spec, new: Spec) -> list[str]:
    """The changes that make `new` another run than `old`, as "key: old -> new"; empty if it may be resumed."""
    return [
        f"{path}: {json.dumps(before)} -> {json.dumps(after)}"
        for path, (before, after) in diff(old, new).items()
        if not any(fnmatchcase(path, pattern) for pattern in RESUMABLE)
    ]


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a spec file, for editors.

    A file may extend another and say only what differs, so no key is required.
    """
    schema = _partial(Spec.model_json_schema())
    extends = {"type": "string", "description": "a packaged spec's name, or a path relative to this file"}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _partial(schema: Any) -> Any:
    """`schema` for parts of documents: nothing required, and a part may fit several members of a union."""
    if isinstance(schema, list):
        return [_partial(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _partial(value) for key, value in schema.items() if key not in ("required", "discriminator")}
    if "oneOf" in kept:
        kept["anyOf"] = kept.pop("oneOf")
    return kept
