"""Exports: one safetensors file with weights, resolved spec and metrics, which is all that `ulzoo.load` needs.

An export is made from a run, from one of its training checkpoints, or from another export in a different precision.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from ulzoo.coding.codec import Codec
from ulzoo.files import tensor_file
from ulzoo.files.atomic import sha256
from ulzoo.model.contract import STAGES, Stage
from ulzoo.model.pretrained import Dtype, LatentStatistics
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model, name_labels
from ulzoo.registry.runs.compress import measure_codec
from ulzoo.registry.spec.components import find_plugins, find_unavailable
from ulzoo.registry.spec.data_paths import read_data_paths
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec
from ulzoo.runtime.devices import as_device
from ulzoo.runtime.messages import one_line
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.version import __version__


@dataclass(frozen=True)
class Export:
    """A loaded export.

    Attributes:
        model: in eval mode.
        spec: the resolved spec.
        results: metrics and their protocol; {} if the file has none.
        dtype: of the stored weights.
    """

    model: UnifiedLatents
    spec: Spec
    results: dict[str, Any]
    dtype: Dtype = "float32"

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256, in hex, of the model's weights in float32."""
        return tensor_file.tensors_sha256(self.model.state_dict())


def save_export(
    path: Path, model: UnifiedLatents, spec: Spec, results: dict[str, Any], dtype: Dtype = "float32"
) -> None:
    """Write `model` to `path` atomically, with weights stored as `dtype`; a loaded model always computes in float32.

    Raises:
        ValueError: a weight is not finite in `dtype`; nothing is written.
    """
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            finite = bool(model.state_dict()[name].isfinite().all())
            reason = f"exceeds the range of {dtype}; use --dtype bfloat16" if finite else "is NaN or infinite"
            raise ValueError(f"{path}: not written: the weight {name} {reason}")
    metadata = {
        "spec": spec.to_dict(),
        "spec_hash": spec.hash,
        "stages": list(model.stages),
        "label_names": list(model.contract.label_names),
        "results": results,
        "latent_statistics": model.latent_statistics and model.latent_statistics.to_dict(),
        "dtype": dtype,
        "versions": versions(),
        "plugins": find_plugins(spec.to_dict()),
    }
    if model.codec:
        metadata["codec"] = model.codec.to_dict()
    tensor_file.write(path, tensors, metadata)


def load_export(path: Path, device: torch.device | str = "cpu") -> Export:
    """Read an export and verify its digest. The model is checked against the file before its memory is allocated.

    Raises:
        ValueError: the file is damaged or no export, or this version of ulzoo builds other networks from its spec.
    """
    device = as_device(device)
    content = tensor_file.read(path, device)
    metadata, stages = content.metadata, content.metadata.get("stages")
    if not isinstance(metadata.get("spec"), dict) or not isinstance(metadata.get("results"), dict):
        raise tensor_file.DamagedFile(f"{path}: damaged (an export has a spec and results)")
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        raise tensor_file.DamagedFile(f"{path}: damaged (an export has a list of stages)")
    tensors = content.tensors
    try:
        spec = spec_from_dict(metadata["spec"]).with_data_paths(read_data_paths(path.parent))
        skeleton = compile_model(spec, "meta")
    except ValueError as error:
        if reason := find_unavailable(metadata["spec"], metadata.get("plugins")):
            raise ValueError(f"{path}: {reason}") from None
        prefix = "" if _is_import_error(error) else "its spec does not fit this version of ulzoo: "
        raise ValueError(f"{path}: {prefix}{error}") from None
    _load_weights(skeleton, stages, {name: tensor.to("meta") for name, tensor in tensors.items()}, path)
    model = compile_model(spec, device, pretrained=False)
    _load_weights(model, stages, tensors, path)
    try:
        name_labels(model, _label_names(metadata))
        set_latent_statistics(model, metadata)
        set_codec(model, metadata)
    except ValueError as error:
        raise tensor_file.DamagedFile(f"{path}: damaged ({error})") from None
    return Export(model, spec, metadata["results"], metadata.get("dtype", "float32"))


def set_latent_statistics(model: UnifiedLatents, values: Mapping[str, Any]) -> None:
    """Set the model's latent statistics to those in metadata or results, if there are any. Raises ValueError."""
    if (statistics := values.get("latent_statistics")) is not None:
        model.latent_statistics = LatentStatistics.from_dict(statistics, model.contract.latent_channels)


def set_codec(model: UnifiedLatents, values: Mapping[str, Any]) -> None:
    """Set the model's codec to that in metadata, if there is one. Raises ValueError."""
    if (codec := values.get("codec")) is not None:
        model.codec = Codec.from_dict(codec)


def _is_import_error(error: BaseException | None) -> bool:
    """Whether an error was raised because an optional package is missing."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__ or error.__context__
    return error is not None


def _label_names(metadata: Mapping[str, Any]) -> list[str]:
    """The label names of a file, safe to print; [] in files of earlier versions. Raises ValueError."""
    names = metadata.get("label_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its label names are not a list of texts")
    return [one_line(name) for name in names]


def _load_weights(
    model: UnifiedLatents, stages: Collection[str], tensors: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Load the weights of the trained stages. Raises ValueError if their names or shapes differ from the model's."""
    remove_untrained(model, stages)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        first = one_line(str(error).splitlines()[1].strip())
        raise ValueError(f"{path}: its weights do not fit its spec in this version of ulzoo: {first}") from None


def remove_untrained(model: UnifiedLatents, stages: Collection[str]) -> None:
    """Remove the networks of all stages but `stages` from the model, so that no untrained network is used."""
    for stage in set(model.stages) - set(stages):
        setattr(model, STAGES[stage][-1], None)


def versions() -> dict[str, str]:
    """The versions of the software that writes a file."""
    return {"ulzoo": __version__, "torch": torch.__version__}


# ------------------------------------------------------------------------------------------ from training checkpoints


def restore(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> tuple[UnifiedLatents, Spec]:
    """The model of a training checkpoint, with averaged weights and without the networks of later stages."""
    spec = spec_from_dict(checkpoint.metadata["spec"])
    if not (weights := checkpoint.read("model.")):
        raise ValueError(f"{checkpoint.folder}: a snapshot of averages, not a checkpoint; use `ulzoo ema` on its run")
    model = compile_model(spec, device, pretrained=False)
    model.load_state_dict(weights)
    load_averages(model, checkpoint)
    name_labels(model, _label_names(checkpoint.metadata))
    remove_untrained(model, spec.stages_up_to(checkpoint.stage))
    return model, spec


def check_label_names(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    """Raise ValueError if the classes of the data are not those that the checkpoint was trained with."""
    before = checkpoint.metadata.get("label_names", [])
    if not (before and names) or list(names) == before:
        return
    label = next(
        (i for i, (old, new) in enumerate(zip(before, names, strict=False)) if old != new), min(len(before), len(names))
    )
    old, new = (repr(row[label]) if label < len(row) else "nothing" for row in (before, list(names)))
    raise ValueError(
        f"{checkpoint.folder}: the classes of its data have changed, label {label} was {old} and is now {new}; "
        "restore their names, or use --fresh or another --out"
    )


def load_averages(model: UnifiedLatents, checkpoint: Checkpoint) -> None:
    """Load the averaged weights of the checkpoint's stage; frozen networks and those of other stages stay unchanged."""
    load_trained(model, checkpoint.stage, checkpoint.read("ema."))


def load_trained(model: UnifiedLatents, stage: Stage, averages: Mapping[str, torch.Tensor]) -> None:
    """Load the weights of the networks that a stage trains."""
    for name in model.contract.trained_networks(stage):
        prefix = f"{name}."
        network = {key.removeprefix(prefix): value for key, value in averages.items() if key.startswith(prefix)}
        getattr(model, name).load_state_dict(network)


@dataclass(frozen=True)
class ExportedFile:
    """The file that `export` wrote.

    Attributes:
        path: the file, or the index of its parts.
        source: the checkpoint or export that it was made from.
        stage, step: training progress of the checkpoint; None for an export.
        has_metrics: whether metrics were copied to it.
    """

    path: Path
    source: Path
    stage: str | None
    step: int | None
    has_metrics: bool

    @property
    def size(self) -> int:
        """In bytes, with all parts."""
        return sum(file.stat().st_size for file in tensor_file.files_of(self.path))

    @property
    def sha256(self) -> str:
        """Of the file, or of the index of its parts."""
        return sha256(tensor_file.files_of(self.path)[0])


def export(
    source: Path,
    out: Path,
    dtype: Dtype | None = None,
    *,
    without: Literal["decoder"] | None = None,
    codec: bool = False,
) -> ExportedFile:
    """Export averaged weights.

    The metrics of a run are included if they were measured at the same step, and if the weights are not rounded.

    Args:
        source: a run directory, whose latest intact checkpoint is used; a training checkpoint; or, with `dtype`,
            `without` or `codec`, an export.
        out: the file to write.
        dtype: of the stored weights; None for float32.
        without: "decoder" leaves out the decoder that a distilled one replaces, and metrics that were measured with it.
        codec: measure the codec that `model.compress` needs, on training data.

    Raises:
        ValueError: `source` is none of these, has no distilled decoder, or its codec cannot be measured.
    """
    checkpoint: Checkpoint | None = None
    stored: Dtype = "float32"
    if (dtype or without or codec) and tensor_file.files_of(source):
        loaded = load_export(source)
        model, spec, results, stored = loaded.model, loaded.spec, loaded.results, loaded.dtype
    else:
        checkpoint = _open_checkpoint(source)
        model, spec = restore(checkpoint)
        results = matching_results(checkpoint)
        set_latent_statistics(model, results)
    written = dtype or stored
    results = results if written in ("float32", stored) else {}
    if without:
        results = _remove_teacher(model, results, source)
    if codec:
        model.codec = measure_codec(model, spec)
    save_export(out, model, spec, results, written)
    if checkpoint is None:
        return ExportedFile(out, source, None, None, bool(results))
    return ExportedFile(out, checkpoint.folder, checkpoint.stage, checkpoint.step, bool(results))


def _remove_teacher(model: UnifiedLatents, results: dict[str, Any], source: Path) -> dict[str, Any]:
    """Remove the decoders that the distilled one replaces, and return the results, if they are of the distilled one.

    Raises:
        ValueError: there is no distilled decoder.
    """
    if model.distilled is None:
        raise ValueError(f"{source}: has no distilled decoder, without which it needs its decoder")
    model.decoder = model.final_decoder = None
    return results if results.get("protocol", {}).get("decoder_network") == "distilled" else {}


def _open_checkpoint(source: Path) -> Checkpoint:
    if tensor_file.is_checkpoint(source):
        return Checkpoint.open(source)
    if not source.is_dir():
        raise ValueError(f"{source}: neither a run directory nor a training checkpoint; an export needs --dtype")
    latest = CheckpointManager(source / "checkpoints").latest()
    if latest is None:
        raise ValueError(f"{source}: contains no training checkpoints")
    return latest


def matching_results(checkpoint: Checkpoint) -> dict[str, Any]:
    """The metrics and protocol of the checkpoint's run, if they were measured at this checkpoint; else {}."""
    run = checkpoint.folder.parent.parent
    try:
        results = json.loads((run / "figures.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    expected = {"stage": checkpoint.stage, "step": checkpoint.step, "spec_hash": checkpoint.metadata["spec_hash"]}
    return results if results.get("trained") == expected else {}
