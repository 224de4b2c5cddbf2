"""Exports: one safetensors file with the weights, the resolved spec and the figures, all that `ulzoo.load` needs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ulzoo.files import tensor_file
from ulzoo.files.atomic import one_line
from ulzoo.model.contract import STAGES
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec
from ulzoo.version import __version__

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Export:
    """A loaded export: the model in eval mode, its spec, and its figures with their protocol ({} if there are none)."""

    model: UnifiedLatents
    spec: Spec
    results: dict[str, Any]


def save_export(
    path: Path, model: UnifiedLatents, spec: Spec, results: dict[str, Any], dtype: Dtype = "float32"
) -> None:
    """Write `model` to `path` atomically; `dtype` is how the weights are stored, they are computed with in float32."""
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()}
    metadata = {
        "spec": spec.to_dict(),
        "spec_hash": spec.hash,
        "stages": list(model.stages),
        "results": results,
        "dtype": dtype,
        "versions": versions(),
    }
    tensor_file.write(path, tensors, metadata)


def load_export(path: Path, device: torch.device | str = "cpu") -> Export:
    """Read an export, checked against the digest it carries; memory goes to weights that the file has and no others.

    Raises:
        ValueError: not an export, damaged, or of networks that this version builds otherwise.
    """
    content = tensor_file.read(path, device)
    metadata, stages = content.metadata, content.metadata.get("stages")
    if not isinstance(metadata.get("spec"), dict) or not isinstance(metadata.get("results"), dict):
        raise tensor_file.DamagedFile(f"{path}: damaged (an export has a spec and results)")
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        raise tensor_file.DamagedFile(f"{path}: damaged (an export has a list of stages)")
    tensors = content.tensors
    try:
        spec = spec_from_dict(metadata["spec"])
        hollow = compile_model(spec, "meta")
    except ValueError as error:
        raise ValueError(f"{path}: its spec does not fit this version of ulzoo: {error}") from None
    _fill(hollow, stages, {name: tensor.to("meta") for name, tensor in tensors.items()}, path)
    model = compile_model(spec, device, pretrained=False)
    _fill(model, stages, tensors, path)
    return Export(model, spec, metadata["results"])


def _fill(model: UnifiedLatents, stages: Collection[str], tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put in all weights, or a ValueError where the file has others than the model."""
    leave_untrained(model, stages)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        first = one_line(str(error).splitlines()[1].strip())
        raise ValueError(f"{path}: its weights do not fit its spec in this version of ulzoo: {first}") from None


def leave_untrained(model: UnifiedLatents, stages: Collection[str]) -> None:
    """Take away what later stages than `stages` train, so that nothing untrained is used."""
    for stage in set(model.stages) - set(stages):
        setattr(model, STAGES[stage][-1], None)


def versions() -> dict[str, str]:
    """What produced a file."""
    return {"ulzoo": __version__, "torch": torch.__version__}
