"""What a spec is: its sections, what must agree between them, its hash."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from ulzoo.model.contract import STAGES
from ulzoo.model.contract import Stage as StageName
from ulzoo.registry.spec.component_table import Choice, ComponentConfig, error_at
from ulzoo.registry.spec.components import DATASETS, ENCODERS
from ulzoo.registry.spec.sections import (
    ConditioningConfig,
    DecoderConfig,
    DiffusionConfig,
    DiffusionDecoderConfig,
    DiffusionPriorConfig,
    Document,
    LatentConfig,
    NormalPriorConfig,
    PriorConfig,
    SamplersConfig,
    SamplingConfig,
    TrainConfig,
)
from ulzoo.registry.spec.yaml_source import SpecError, dump_yaml, located


class Spec(Document):
    """The whole model: data, encoder, prior, decoder, base, how they are trained and sampled."""

    name: str = Field(description="name of the model; letters, digits, dot, dash and underscore")
    description: str = Field(default="", description="one line on what it is; changes nothing")
    data: Annotated[ComponentConfig, Choice(DATASETS)] = Field(description="the images or video clips")
    latent: LatentConfig = Field(description="the latent's shape and noise")
    encoder: Annotated[ComponentConfig, Choice(ENCODERS)] = Field(description="image or clip to clean latent")
    conditioning: ConditioningConfig = Field(
        default_factory=ConditioningConfig, description="frame prediction, of video"
    )
    prior: PriorConfig | None = Field(description="measures the rate in stage 1; null: the encoder is not trained")
    decoder: DecoderConfig | None = Field(
        description="the image or clip given the latent; null: the encoder decodes itself"
    )
    final_decoder: DiffusionDecoderConfig | None = Field(
        default=None, description="a decoder that is trained on the frozen latents and then takes the decoder's place"
    )
    base: DiffusionConfig | None = Field(
        description="diffusion model of the latent that samples it, trained in stage 2; null: the prior samples"
    )
    train: TrainConfig = Field(description="training")
    sample: SamplersConfig = Field(default_factory=SamplersConfig, description="sampling")

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
        default = LatentConfig.model_fields["logsnr"].default
        logsnr = latent.get("logsnr", default) if isinstance(latent, Mapping) else getattr(latent, "logsnr", default)
        try:
            float(logsnr)
        except (TypeError, ValueError):
            return data  # latent.logsnr is the error to speak of
        given = dict(data)
        for part in ("prior", "base"):
            model = given.get(part)
            if isinstance(model, Mapping) and model.get("kind") == "normal":
                continue
            if isinstance(model, Mapping) and isinstance(schedule := model.get("schedule", {}), Mapping):
                given[part] = {**model, "schedule": {"logsnr_max": logsnr, **schedule}}
        return given

    @model_validator(mode="after")
    def _one_logsnr(self) -> "Spec":
        for part, model in (("prior", self.prior), ("base", self.base)):
            if not isinstance(model, DiffusionConfig):
                continue
            logsnr_max = getattr(model.schedule, "logsnr_max", self.latent.logsnr)
            if logsnr_max != self.latent.logsnr:
                raise error_at(
                    (part, "schedule", "logsnr_max"),
                    f"{logsnr_max:g} is not latent.logsnr, {self.latent.logsnr:g}; leave it out, it is derived",
                )
        return self

    @model_validator(mode="after")
    def _sensible(self) -> "Spec":
        for path, message in find_conflicts(self):
            raise error_at(tuple(path.split(".")), message)
        return self

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The stages of training that this spec has, in order."""
        parts = {"latents": self.prior, "decoder": self.final_decoder, "base": self.base}
        return tuple(stage for stage in STAGES if parts[stage] is not None)

    def asked_stages(self, stage: str = "all") -> tuple[StageName, ...]:
        """All stages, or one of them. ValueError if this spec has no such stage."""
        if stage != "all" and stage not in self.stages:
            raise ValueError(f"{self.name} has no stage {stage!r}, it has {' and '.join(self.stages)}")
        return tuple(name for name in self.stages if stage in ("all", name))

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
        """SHA-256 in hex of everything but the description; the same for every way to write the same spec.

        Keys that are null are left out, so that a new key that may be null changes no hash.
        """
        content = without_nulls({key: value for key, value in self.to_dict().items() if key != "description"})
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def error(self, path: str, message: str) -> SpecError:
        """The error to raise about the key `path`, with the file and line where it stands if the spec has a source."""
        return located(self._source, tuple(path.split(".")) if path else (), message)


def without_nulls(data: Any) -> Any:
    """Nested mappings without the keys whose value is null."""
    if not isinstance(data, Mapping):
        return data
    return {key: without_nulls(value) for key, value in data.items() if value is not None}


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


def find_conflicts(spec: Spec) -> Iterator[tuple[str, str]]:
    """Combinations of keys that are fine alone and mean nothing together: (key path, why and what to do)."""
    prior, decoder, base = spec.prior, spec.decoder, spec.base
    if prior is None and decoder is not None:
        yield "decoder", "without a prior no stage trains it: set it to null, or use final_decoder"
    if prior is not None and decoder is None:
        yield "decoder", "a prior trains the encoder with a decoder: give one, or set prior to null"
    if prior is None and base is None:
        yield "base", "nothing samples: with prior null there must be a base"
    if isinstance(prior, NormalPriorConfig) and base is None:
        yield "prior.kind", "single-stage training (base null) samples from the prior, which must be a diffusion model"
    if isinstance(prior, DiffusionPriorConfig) and prior.stop_gradient and prior.normal_kl == 0:
        yield "prior.stop_gradient", "nothing would bound the latent: give prior.normal_kl a small weight"
    if spec.latent.variance == "learned" and prior is None:
        yield "latent.variance", "an encoder that is not trained cannot learn it"
    if spec.latent.logsnr_bias is not None:
        if base is not None:
            yield "latent.logsnr_bias", "is for single-stage training: set base and train.base to null"
        if decoder is not None and not decoder.latent_logsnr:
            yield "decoder.latent_logsnr", "latent_logsnr must be true where latent.logsnr_bias draws the log-SNR"
    if spec.conditioning.frames and base is None:
        yield "conditioning.frames", "the base continues frames: there must be one"
    for stage, part in {"latents": "prior", "decoder": "final_decoder", "base": "base"}.items():
        given, needed = getattr(spec.train, stage) is not None, getattr(spec, part) is not None
        if needed and not given:
            yield "train", f"missing key {stage!r}: how {part} is trained"
        if given and not needed:
            yield f"train.{stage}", f"there is no {part} to train: set it to null"
    sampled = {"base": base or prior, "decoder": spec.final_decoder or decoder}
    for name, network in sampled.items():
        sampling: SamplingConfig = getattr(spec.sample, name)
        if sampling.guidance != 1 and not (isinstance(network, DiffusionConfig) and network.guidable):
            why = "guidance needs a diffusion model that is class_conditional or text_conditional, with dropout above 0"
            yield f"sample.{name}.guidance", f"{why}; set it to 1"


RESUMABLE = (
    "description",
    "data.root",
    "data.download",
    "data.verify",
    "train.latents.data.root",
    "train.latents.data.download",
    "train.latents.data.verify",
    "train.base.data.path",
    "sample.*",
    "train.tensorboard",
    "train.parallel",
    "train.parallel.*",
    "train.*.steps",
    "train.*.checkpoint_every",
    "train.*.milestone_every",
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
