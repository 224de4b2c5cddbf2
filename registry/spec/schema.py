"""The spec: its sections, the constraints between them, its hash, and which changes allow resuming a run."""

import hashlib
import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from ulzoo.model.contract import STAGES, NetworkName
from ulzoo.model.contract import Stage as StageName
from ulzoo.registry.spec.component_table import Choice, ComponentConfig, error_at
from ulzoo.registry.spec.components import DATASETS, ENCODERS
from ulzoo.registry.spec.conflicts import find_conflicts
from ulzoo.registry.spec.data_paths import locate, paths_beside_files, write_data_paths
from ulzoo.registry.spec.sections import (
    BaseConfig,
    ConditioningConfig,
    DecoderConfig,
    DiffusionConfig,
    DiffusionDecoderConfig,
    DistilledDecoderConfig,
    Document,
    InitConfig,
    LatentConfig,
    NormalPriorConfig,
    PriorConfig,
    SamplersConfig,
    TrainConfig,
)
from ulzoo.registry.spec.yaml_source import SpecError, dump_yaml, located
from ulzoo.training.config import StageConfig

if TYPE_CHECKING:
    from ulzoo.runtime.processes import ProcessGroup


class Spec(Document):
    """A complete model: data, encoder, prior, decoder, base, training and sampling."""

    name: str = Field(description="name of the model; letters, digits, dot, dash and underscore")
    description: str = Field(default="", description="one line about the model; not part of the hash")
    data: Annotated[ComponentConfig, Choice(DATASETS)] = Field(description="the images or video clips")
    latent: LatentConfig = Field(description="the latent's shape and noise")
    encoder: Annotated[ComponentConfig, Choice(ENCODERS)] = Field(description="image or clip to clean latent")
    conditioning: ConditioningConfig = Field(
        default_factory=ConditioningConfig, description="frame prediction, of video"
    )
    prior: PriorConfig | None = Field(description="defines the rate in stage 1; null: the encoder is not trained")
    decoder: DecoderConfig | None = Field(
        description="latent to image or clip; null: the encoder has a decoder of its own"
    )
    final_decoder: DiffusionDecoderConfig | None = Field(
        default=None, description="a decoder that is trained on the frozen latents and then replaces the decoder"
    )
    distilled: DistilledDecoderConfig | None = Field(
        default=None, description="a decoder of few steps, distilled from the one that decodes; null: none"
    )
    base: BaseConfig | None = Field(
        description="diffusion model that samples the latent, trained in stage 2; null: the prior samples"
    )
    init: InitConfig | None = Field(
        default=None, description="weights of another model to start from; null: new weights"
    )
    train: TrainConfig = Field(description="training")
    sample: SamplersConfig = Field(default_factory=SamplersConfig, description="sampling")
    _recorded_paths: dict[str, str] = PrivateAttr(default_factory=dict)

    _decided: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"{name!r}: a name consists of letters, digits, '.', '-' and '_', and starts with a letter or digit"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _derive_logsnr(cls, data: Any) -> Any:
        """Set the prior's and base's λ(0) to the latent's log-SNR, so that it is written only once."""
        if not isinstance(data, Mapping):
            return data
        latent = data.get("latent")
        default = LatentConfig.model_fields["logsnr"].default
        logsnr = latent.get("logsnr", default) if isinstance(latent, Mapping) else getattr(latent, "logsnr", default)
        try:
            float(logsnr)
        except (TypeError, ValueError):
            return data  # the validation of latent.logsnr reports it
        completed = dict(data)
        for part in ("prior", "base"):
            model = completed.get(part)
            if isinstance(model, Mapping) and model.get("kind") == "normal":
                continue
            if isinstance(model, Mapping) and isinstance(schedule := model.get("schedule", {}), Mapping):
                completed[part] = {**model, "schedule": {"logsnr_max": logsnr, **schedule}}
        return completed

    @model_validator(mode="after")
    def _check_logsnr(self) -> "Spec":
        for part, model in (("prior", self.prior), ("base", self.base)):
            if not isinstance(model, DiffusionConfig):
                continue
            logsnr_max = getattr(model.schedule, "logsnr_max", self.latent.logsnr)
            if logsnr_max != self.latent.logsnr:
                raise error_at(
                    (part, "schedule", "logsnr_max"),
                    f"{logsnr_max:g} differs from latent.logsnr, {self.latent.logsnr:g}; "
                    "remove this key, its value is derived",
                )
        return self

    @model_validator(mode="after")
    def _check_conflicts(self) -> "Spec":
        for path, message in find_conflicts(self):
            raise error_at(tuple(path.split(".")), message)
        return self

    @property
    def decided(self) -> dict[str, str]:
        """Key path -> value and reason of the defaults that the sizes decided."""
        return dict(self._decided)

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The training stages of this spec, in order: those with a network to train."""
        return tuple(stage for stage in self._all_stages if stage not in self.frozen_stages)

    @property
    def frozen_stages(self) -> tuple[StageName, ...]:
        """The stages that are not trained, because all their weights are another model's and frozen."""
        fixed = self._fixed | {*self.replaced_decoders}
        return tuple(stage for stage in self._all_stages if {*STAGES[stage]} <= fixed)

    @property
    def teacher(self) -> Literal["decoder", "final_decoder"]:
        """The section of the decoder that a distilled one is trained on, and whose network it has."""
        return "decoder" if self.final_decoder is None else "final_decoder"

    @property
    def replaced_decoders(self) -> tuple[NetworkName, ...]:
        """The decoders that a model on frozen latents does without, because a frozen distilled one decodes."""
        if not {"encoder", "prior", "distilled"} <= self._fixed:
            return ()
        return tuple(name for name in ("decoder", "final_decoder") if getattr(self, name) and name not in self.frozen)

    @property
    def frozen(self) -> tuple[NetworkName, ...]:
        """The networks that no stage trains."""
        return self.init.freeze if self.init else ()

    @property
    def _fixed(self) -> set[NetworkName]:
        """The frozen networks, and a prior without weights."""
        without_weights: set[NetworkName] = {"prior"} if isinstance(self.prior, NormalPriorConfig) else set()
        return {*self.frozen} | without_weights

    @property
    def _all_stages(self) -> tuple[StageName, ...]:
        return tuple(stage for stage, networks in STAGES.items() if getattr(self, networks[-1]) is not None)

    def stages_up_to(self, stage: StageName) -> tuple[StageName, ...]:
        """The stages whose weights are ready once `stage` is trained: the earlier ones, itself, and the frozen ones."""
        return (*self.frozen_stages, *self.stages[: self.stages.index(stage) + 1])

    def select_stages(self, stage: str = "all") -> tuple[StageName, ...]:
        """All stages, or the one named. Raises ValueError if this spec has no such stage."""
        if stage != "all" and stage not in self.stages:
            raise ValueError(f"{self.name} has no stage {stage!r}; its stages are {' and '.join(self.stages)}")
        return tuple(name for name in self.stages if stage in ("all", name))

    def check_batch_size(self, stage: StageName, processes: "ProcessGroup") -> None:
        """Raise SpecError unless the processes can share the batches of a stage."""
        training: StageConfig = getattr(self.train, stage)
        try:
            processes.local_batch_size(training.batch_size, training.accumulate)
        except ValueError as error:
            raise self.error(f"train.{stage}.batch_size", str(error)) from None

    @property
    def data_paths(self) -> dict[str, str]:
        """Where the data is that relative paths name: "data.root=PATH" -> absolute path. Not part of the hash."""
        return {**dict(paths_beside_files(self._source)), **self._recorded_paths}

    def with_data_paths(self, paths: Mapping[str, str]) -> "Spec":
        """This spec with paths of its data that were recorded on this machine."""
        spec = self.model_copy()
        spec._recorded_paths = {**self._recorded_paths, **paths}
        return spec

    def record_data_paths(self, folder: Path) -> None:
        """Record in a run directory where the data is that this spec names by relative paths."""
        stages = {f"train.{stage}.data": getattr(getattr(self.train, stage), "data", None) for stage in STAGES}
        write_data_paths(folder, {"data": self.data, **stages}, self.data_paths)

    def locate_data(self, config: ComponentConfig, path: str) -> ComponentConfig:
        """The data section at the key `path` with the location of its data on this machine."""
        located = locate(config, path, self.data_paths)
        return config.model_copy(update=located) if located else config

    def data_identity(self) -> dict[str, Any]:
        """The data section without the keys that only say where and how this machine stores the data.

        Metrics and encoded latents record it; two of them that agree are of the same data.
        """
        return self.data.model_dump(mode="json", exclude=set(MACHINE_KEYS))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.hash)

    def to_dict(self) -> dict[str, Any]:
        """The resolved spec, with all defaults, as plain data that JSON can represent.

        Keys of later versions are left out where they are null, so that files are those of earlier versions.
        """
        content = self.model_dump(mode="json")
        train, base = content["train"], content["base"] or {}
        later = ((content, "init"), (content, "distilled"), (train, "distill"), (base, "loss_factor"), (base, "bias"))
        for section, key in later:
            if section.get(key, 0) is None:
                del section[key]
        return content

    def to_yaml(self) -> str:
        """The resolved spec as YAML, which loads as an equal spec."""
        return dump_yaml(self.to_dict())

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of the resolved spec without its description and loggers.

        Null keys are excluded, so that adding an optional key to the schema changes no hash.
        """
        content = without_nulls({key: value for key, value in self.to_dict().items() if key != "description"})
        content["train"].pop("logger", None)
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def error(self, path: str, message: str) -> SpecError:
        """A SpecError about the key `path`, with its file and line if the spec was read from a file."""
        return located(self._source, tuple(path.split(".")) if path else (), message)


def without_nulls(data: Any) -> Any:
    """Remove keys whose value is null from nested mappings."""
    if not isinstance(data, Mapping):
        return data
    return {key: without_nulls(value) for key, value in data.items() if value is not None}


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one, keyed by dotted path; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def diff(a: Spec, b: Spec) -> dict[str, tuple[Any, Any]]:
    """Key path -> (value in a, value in b) of all keys that differ; None where a spec lacks the key."""
    left, right = flatten(a.to_dict()), flatten(b.to_dict())
    paths = [*left, *(path for path in right if path not in left)]
    absent = object()
    return {
        path: (left.get(path), right.get(path)) for path in paths if left.get(path, absent) != right.get(path, absent)
    }


MACHINE_KEYS = ("root", "paths", "download", "verify")
"""Keys of the data section that say where the data is stored, how it gets there and how it is checked."""

RESUMABLE = (
    "description",
    *(f"data.{key}" for key in MACHINE_KEYS),
    *(f"train.latents.data.{key}" for key in MACHINE_KEYS),
    "train.base.data.path",
    "init.model",
    "sample.*",
    "train.tensorboard",
    "train.logger",
    "train.parallel",
    "train.parallel.*",
    "train.*.steps",
    "train.*.checkpoint_every",
    "train.*.milestone_every",
    "train.*.log_every",
    "train.*.compile",
    "train.*.workers",
)
"""Key paths, with wildcards, that may change when a run is resumed: length, logging, hardware."""


def changed_on_resume(old: Spec, new: Spec) -> list[str]:
    """The changes that forbid resuming a run of `old` as `new`, as "key: old -> new"; empty if there are none."""
    return [
        f"{path}: {json.dumps(before)} -> {json.dumps(after)}"
        for path, (before, after) in diff(old, new).items()
        if not any(fnmatchcase(path, pattern) for pattern in RESUMABLE)
    ]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file, for editors.

    No key is required, because a file may extend another one and contain only the differences.
    """
    schema = _partial(Spec.model_json_schema())
    extends = {"type": "string", "description": "name of a packaged spec, or a path relative to this file"}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _partial(schema: Any) -> Any:
    """Relax `schema` for partial documents: no required keys, and a value may match several members of a union."""
    if isinstance(schema, list):
        return [_partial(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    relaxed = {key: _partial(value) for key, value in schema.items() if key not in ("required", "discriminator")}
    if "oneOf" in relaxed:
        relaxed["anyOf"] = relaxed.pop("oneOf")
    return relaxed
