"""Weights of another model: the parts that a spec's `init` names, loaded tensor by tensor."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ulzoo.model.contract import NETWORKS, NetworkName
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.runs.export import Export
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec, flatten
from ulzoo.registry.spec.sections import InitConfig

OpenModel = Callable[[str], Export]

TRAINING_KEYS = ("label_dropout", "text_dropout", "weighting", "stop_gradient", "normal_kl", "weight", "path")
"""Keys of a network that change neither its weights' shapes nor its output."""


@dataclass(frozen=True)
class PartReport:
    """What was loaded of one network.

    Attributes:
        part: the network.
        tensors, loaded: the number of its tensors, and of those with the other model's values.
        parameters, loaded_parameters: the same in values.
        frozen: whether no stage trains it.
        new: its other tensors -> the reason why they have new values.
        unused: tensors that only the other model has.
        changed: its keys with other values than in the other model's spec, as "key: theirs -> ours".
    """

    part: NetworkName
    tensors: int
    loaded: int
    parameters: int
    loaded_parameters: int
    frozen: bool
    new: dict[str, str]
    unused: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class InitReport:
    """What was loaded of another model, and of which."""

    model: str
    sha256: str
    parts: tuple[PartReport, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def open_init(spec: Spec, open_model: OpenModel, run_spec: Spec | None = None) -> tuple[Spec, Export | None]:
    """The spec with the SHA-256 of the model that its `init` names, and that model; the spec itself without `init`.

    Args:
        run_spec: the spec of the run that may be continued. If the model that it names can no longer be opened, its
            SHA-256 is used and the model is None.

    Raises:
        SpecError: the model cannot be opened, or the spec has another SHA-256.
    """
    if spec.init is None:
        return spec, None
    try:
        source = open_model(spec.init.model)
    except ValueError as error:
        recorded = run_spec.init if run_spec else None
        if recorded is None or recorded.sha256 is None or recorded.model != spec.init.model:
            raise spec.error("init.model", str(error)) from None
        return record_source(spec, recorded.sha256), None
    return record_source(spec, source.weights_sha256), source


def record_source(spec: Spec, sha256: str) -> Spec:
    """The spec with the SHA-256 of the model that its `init` names. Raises SpecError if the spec has another one."""
    init = _init(spec)
    if init.sha256 not in (None, sha256):
        raise spec.error(
            "init.sha256",
            f"the weights of {init.model} have the SHA-256 {sha256[:12]}…, not {init.sha256[:12]}…; "
            "give the model that the spec was written for, or remove this key",
        )
    content = spec.to_dict()
    content["init"]["sha256"] = sha256
    resolved = spec_from_dict(content)
    resolved._source = spec._source  # so that errors still have a file and line
    return resolved


def initialize(
    model: UnifiedLatents, spec: Spec, source: Export | None, networks: Collection[str] = NETWORKS
) -> InitReport | None:
    """Load the tensors of `source` that `spec.init` names into `model`, if their names and shapes are the same.

    Args:
        model: the compiled spec.
        source: the model that `open_init` has opened.
        networks: restricts the networks to load, for a stage that begins in an existing run.

    Returns:
        What was loaded, None if there is nothing to load in `networks`.

    Raises:
        SpecError: no tensor fits, or not all of a frozen network, or there is no `source`; nothing is loaded.
    """
    init = _init(spec)
    students = {"distilled"} - {*init.freeze}  # whose training starts from the decoder's weights
    parts = init.parts or [name for name in NETWORKS if name not in students]
    requested = [name for name in NETWORKS if getattr(model, name) is not None and name in parts]
    names = [name for name in requested if name in networks]
    if not names:
        return None
    if source is None:
        raise spec.error("init.model", f"{init.model} can no longer be opened, and no checkpoint has its weights")
    reports: list[PartReport] = []
    tensors: dict[str, Tensor] = {}
    for name in names:
        target, theirs = _tensors_of(model, name), _tensors_of(source.model, name)
        new = _mismatches(target, theirs)
        fitting = {f"{name}.{key}": theirs[key] for key in target if key not in new}
        report = PartReport(
            part=name,
            tensors=len(target),
            loaded=len(fitting),
            parameters=_values(target),
            loaded_parameters=_values(fitting),
            frozen=name in init.freeze,
            new=new,
            unused=tuple(key for key in theirs if key not in target),
            changed=changed_keys(source.spec, spec, name) if theirs else (),
        )
        _check_part(spec, report, source.model)
        reports.append(report)
        tensors |= fitting
    if not tensors and any(report.tensors for report in reports):
        raise spec.error(
            "init.model", f"no tensor of {init.model} fits this spec's {', '.join(names)}{_first(reports)}"
        )
    model.load_state_dict(tensors, strict=False)
    return InitReport(init.model, source.weights_sha256, tuple(reports))


def _init(spec: Spec) -> InitConfig:
    assert spec.init is not None
    return spec.init


def _tensors_of(model: UnifiedLatents, network: str) -> dict[str, Tensor]:
    """The tensors of a network by name; {} if the model does not have it."""
    part = getattr(model, network)
    return {} if part is None else part.state_dict()


def _values(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _mismatches(target: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors of a network that cannot be loaded -> why.

    If no matrix or kernel fits, vectors are not loaded either: biases of unrelated networks may have equal sizes.
    """
    reasons = {}
    for key, tensor in target.items():
        if key not in theirs:
            reasons[key] = "not in that model"
        elif theirs[key].shape != tensor.shape:
            reasons[key] = f"{list(theirs[key].shape)} in that model, {list(tensor.shape)} here"
    matrices = [key for key, tensor in target.items() if sum(size > 1 for size in tensor.shape) > 1]
    if matrices and reasons.keys() >= {*matrices}:
        return {key: reasons.get(key, "no matrix of the network fits") for key in target}
    return reasons


def changed_keys(theirs: Spec, ours: Spec, network: str) -> tuple[str, ...]:
    """Keys that determine what a network computes from equal weights, and differ; but for the encoder, of z_0 too."""
    keys = []
    sections = {"encoder": ("encoder",), "distilled": ("latent", ours.teacher, "distilled")}
    for section in sections.get(network, ("latent", network)):
        before, after = ({} if (part := getattr(spec, section)) is None else _flat(part) for spec in (theirs, ours))
        for key in dict.fromkeys([*before, *after]):
            ignored = key.split(".")[0] in TRAINING_KEYS or key == "backbone.dropout"
            if before.get(key) != after.get(key) and not ignored:
                keys.append(f"{section}.{key}: {json.dumps(before.get(key))} -> {json.dumps(after.get(key))}")
    return tuple(keys)


def _flat(section: Any) -> dict[str, Any]:
    return flatten(section.model_dump(mode="json"))


def _check_part(spec: Spec, report: PartReport, theirs: UnifiedLatents) -> None:
    """Raise SpecError if a network that must be loaded cannot be, or one that is frozen would not be the other's."""
    init, part = _init(spec), report.part
    if getattr(theirs, part) is None and (init.parts is not None or report.frozen):
        replaced = part in ("decoder", "final_decoder") and theirs.distilled is not None
        remedy = "name distilled instead, which decodes" if replaced else "leave it out"
        raise spec.error("init.freeze" if init.parts is None else "init.parts", f"{init.model} has no {part}: {remedy}")
    if init.parts is not None and report.tensors and not report.loaded:
        raise spec.error("init.parts", f"no tensor of the {part} of {init.model} fits{_first([report])}")
    if report.frozen and report.new:
        raise spec.error("init.freeze", f"{part} cannot be frozen, since not all of it is loaded{_first([report])}")
    if report.frozen and report.changed:
        raise spec.error(
            "init.freeze",
            f"{part} cannot be frozen, since it would compute something else ({report.changed[0]}); "
            f"use the keys of {init.model}",
        )


def _first(reports: list[PartReport]) -> str:
    """The first tensor that was not loaded, as the end of an error message."""
    names = [f"; {report.part}.{key} is {reason}" for report in reports for key, reason in report.new.items()]
    return names[0] if names else ""
