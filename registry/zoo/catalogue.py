"""The catalogue: specs and models by name, path or address."""

import fnmatch
import json
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulzoo.registry.spec.data_paths import read_data_paths
from ulzoo.registry.spec.loading import SPECS, find_specs, find_sweeps, spec_from_source
from ulzoo.registry.spec.schema import MACHINE_KEYS, Spec, diff
from ulzoo.registry.spec.sweep import is_sweep, load_sweep
from ulzoo.registry.spec.yaml_source import SpecError, dump_yaml, parse_overrides, parse_yaml
from ulzoo.registry.zoo import hub
from ulzoo.registry.zoo.release import ReleaseManifest, read_manifest
from ulzoo.runtime.messages import one_line, suggest

if TYPE_CHECKING:
    import torch

    from ulzoo.model.unified_latents import UnifiedLatents
    from ulzoo.registry.runs.export import Export

_REGISTRY = Path(str(files("ulzoo.registry")))
WEIGHTS = _REGISTRY / "zoo" / "weights"
RELEASES = (_REGISTRY / "zoo" / "releases", _REGISTRY / "cards")
"""Folders of release manifests; `cards`, with its weights in `registry/weights`, is the location of older versions."""
TENSOR_FILES = (".safetensors", ".safetensors.index.json")
MAX_NAME = 255  # bytes
RELEASED = "released:"
"""Prefix of a name that denotes a released model even if a file or folder has the same name."""


@cache
def releases() -> dict[str, ReleaseManifest]:
    """The manifests of the released models by name, in alphabetical order."""
    manifests = [read_manifest(path, path.name) for folder in RELEASES for path in folder.glob("*.yaml")]
    by_name = {manifest.name: manifest for manifest in reversed(manifests)}
    return dict(sorted(by_name.items()))


def list_models(pattern: str = "*", pretrained: bool | None = None) -> list[str]:
    """Names of packaged specs that match a shell pattern.

    Args:
        pattern: such as "imagenet*".
        pretrained: True for specs with released weights, False for those without, None for all.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a text, got {type(pattern).__name__}")
    names = [name for name in find_specs() if pretrained is None or (name in releases()) == pretrained]
    return sorted(fnmatch.filter(names, pattern))


def text_of(name_or_path: str | os.PathLike[str]) -> str:
    """The text of a name or path.

    Raises:
        TypeError: neither a text nor a path.
        SpecError: no file can have this name.
    """
    text = name_or_path if isinstance(name_or_path, str) else os.fspath(name_or_path)
    if not isinstance(text, str):
        raise TypeError(f"expected a name or path, got {type(text).__name__}")
    if "\0" in text or any(len(os.fsencode(name)) > MAX_NAME for name in text.split("/")):
        raise SpecError(f"{one_line(text)}: no file can have this name")
    return text


def find_release(name_or_path: str | os.PathLike[str]) -> ReleaseManifest | None:
    """The manifest of a released model; None if the argument denotes a file or folder.

    Args:
        name_or_path: text is a released model's name, with or without the prefix "released:", or a path; a path object
            that exists is a path.

    Raises:
        ValueError: a name after "released:" is unknown, or without the prefix is that of a file or folder too.
    """
    text = text_of(name_or_path)
    if text.startswith(RELEASED):
        name = text.removeprefix(RELEASED)
        if name not in releases():
            raise ValueError(f"{text}: there is no released model of this name{suggest(name, releases())}")
        return releases()[name]
    if text not in releases() or not os.path.lexists(text):
        return releases().get(text)
    if isinstance(name_or_path, os.PathLike):
        return None
    kind = "folder" if os.path.isdir(text) else "file"
    raise ValueError(
        f"{text}: is both a released model and a {kind} here; write {RELEASED}{text} for the model or ./{text} for "
        f"the {kind}"
    )


def load_spec(name_or_path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Spec:
    """Load a spec.

    Args:
        name_or_path: a packaged name; a file (`x.yaml`, or any text with a slash); a point of a sweep, such as
            `paper/table2_loss_factor:1.9`; or a model on the hub, `hf://org/repo@revision`.
        overrides: "key.path=value", as `--set`.

    Raises:
        SpecError: the spec cannot be read or is invalid; one line.
        ValueError: the model on the hub cannot be fetched.
    """
    text = text_of(name_or_path)
    if hub.is_address(text):
        return spec_from_source(hub.find_model(text).spec(), parse_overrides(overrides))
    sweep, colon, point = text.rpartition(":")
    if colon and is_sweep(sweep):
        return load_sweep(sweep).resolve_point(point, overrides)
    if is_sweep(text):
        raise SpecError(f"{text} is a sweep: give one of its points, as {text}:POINT; `ulzoo show {text}` lists them")
    if "/" in text and not os.path.exists(text) and (close := get_close_matches(text, find_sweeps(), n=1)):
        raise SpecError(f"{text}: no such file; did you mean a point of the packaged sweep {close[0]!r}?")
    spec = spec_from_source(SPECS.read(name_or_path), parse_overrides(overrides))
    return spec.with_data_paths(read_data_paths(Path(text).parent)) if os.path.isfile(text) else spec


def read_trained_spec(name_or_path: str, overrides: Iterable[str] = ()) -> tuple[Spec, dict[str, Any]] | None:
    """The spec of a trained model, and what its file or checkpoint says of it; None if the argument names a spec.

    Args:
        name_or_path: released:NAME, a run directory, which need not be finished, a checkpoint or an exported file.
        overrides: "key.path=value", as `--set`.

    Raises:
        ValueError: a folder that is none of these, or a damaged file.
    """
    path = Path(name_or_path)
    if name_or_path.startswith(RELEASED) and (manifest := find_release(name_or_path)):
        path = _released_weights(manifest)
    elif name_or_path in find_specs() or not (path.is_dir() or name_or_path.endswith(TENSOR_FILES)):
        return None
    from ulzoo.files import tensor_file
    from ulzoo.training.checkpoint import Checkpoint

    if tensor_file.is_checkpoint(path):
        metadata = Checkpoint.open(path).metadata
    elif not path.is_dir():
        metadata = tensor_file.read_metadata(path)
    elif tensor_file.files_of(path / "model.safetensors"):
        metadata = tensor_file.read_metadata(path / "model.safetensors")
    elif (path / "spec.yaml").is_file():
        return load_spec(path / "spec.yaml", overrides), {}
    else:
        raise ValueError(f"{name_or_path}: contains neither model.safetensors nor spec.yaml, so it is no run directory")
    if not isinstance(metadata.get("spec"), dict):
        raise tensor_file.DamagedFile(f"{name_or_path}: damaged (it has no spec)")
    source = parse_yaml(dump_yaml(metadata["spec"]), name_or_path, lines=False)
    return spec_from_source(source, parse_overrides(overrides)), metadata


FOR_ANY_WEIGHTS = re.compile(
    rf"(description|train|sample|decoder\.weighting|base\.weighting|data\.({'|'.join(MACHINE_KEYS)}))(\.|$)"
)
"""Keys of a spec that may differ from those of weights: how these are trained and sampled from, where the data is."""


def create_model(
    name_or_path_or_spec: str | os.PathLike[str] | Spec, pretrained: bool = False, overrides: Iterable[str] = ()
) -> "UnifiedLatents":
    """Create a model from a spec, with new or released weights.

    Args:
        name_or_path_or_spec: a spec, or what `load_spec` takes.
        pretrained: load the released weights; only `train`, `sample` and the weightings may then be overridden, which
            do not change the networks. A released distilled decoder is kept if the spec has none.
        overrides: "key.path=value", as `--set`.

    Raises:
        ValueError: the spec is invalid (`SpecError`), no weights are released, or their hash is wrong.
    """
    from ulzoo.registry.compile import compile_model, sampling_defaults

    target = name_or_path_or_spec
    if isinstance(target, Spec) and tuple(overrides):
        raise ValueError("overrides apply to a spec's file; this spec is already resolved")
    spec = target if isinstance(target, Spec) else load_spec(target, overrides)
    if pretrained:
        released = open_model(target if isinstance(target, str) and hub.is_address(target) else _release_of(spec))
        changed = [key for key in diff(released.spec, spec) if not FOR_ANY_WEIGHTS.match(key)]
        if spec.distilled is None:
            changed = [key for key in changed if not key.startswith("distilled")]
        if changed:
            raise ValueError(f"the released weights of {spec.name} do not fit a changed {', '.join(changed)}")
        model = released.model
        model.contract = replace(model.contract, sampling=sampling_defaults(spec))
        return model
    return compile_model(spec)


def load(name_or_path: str | os.PathLike[str], device: "torch.device | str" = "cpu") -> "UnifiedLatents":
    """Load a trained model in eval mode.

    Args:
        name_or_path: the name of a released model, an exported file, a run directory, or an address on the Hugging
            Face hub, `hf://org/repo` or `hf://org/repo@revision` (see `ulzoo.registry.zoo.hub`). Where a file or folder
            has the name of a released model, `released:NAME` is the model and `./NAME` the file or folder.

    Raises:
        ValueError: unknown or ambiguous name, not an export, weights with a wrong hash, or the hub cannot be reached.
    """
    return open_model(name_or_path, device).model


def open_model(name_or_path: str | os.PathLike[str], device: "torch.device | str" = "cpu") -> "Export":
    """Load a trained model like `load`, with its spec and metrics."""
    from ulzoo.registry.runs.export import load_export, set_codec, set_latent_statistics

    name = text_of(name_or_path)
    if hub.is_address(name):
        return load_export(hub.find_model(name).weights(), device)
    if manifest := find_release(name_or_path):
        export = load_export(_released_weights(manifest), device)
        set_latent_statistics(export.model, manifest.model_dump())
        set_codec(export.model, manifest.model_dump())
        return export
    if name in find_specs() and not Path(name).exists():
        raise _not_released(name)
    return load_export(trained_file(name, released=True), device)


def _release_of(spec: Spec) -> str:
    """The name of the model released for a spec, unambiguous. Raises ValueError if there is none."""
    if spec.name not in releases():
        raise _not_released(spec.name)
    return f"{RELEASED}{spec.name}"


def _not_released(name: str) -> ValueError:
    return ValueError(
        f"{name}: no weights are released for this spec; train it, or load one of {', '.join(releases())}"
    )


def trained_file(file_or_run: str | os.PathLike[str], released: bool = False) -> Path:
    """The exported file of a run directory, or `file_or_run` itself if it is a file, possibly in parts.

    Args:
        released: mention released models in the error message.

    Raises:
        ValueError: there is no such file, or the run directory has no exported model.
    """
    from ulzoo.files.tensor_file import files_of, is_checkpoint

    path = Path(file_or_run)
    if path.is_dir() and not is_checkpoint(path):
        path /= "model.safetensors"
        if not files_of(path):
            raise ValueError(f"{file_or_run}: contains no model.safetensors; has the training finished?")
    elif not files_of(path) and not is_checkpoint(path):
        others = f", run directory or released model{suggest(path, releases())}" if released else " or run directory"
        raise ValueError(f"{one_line(str(file_or_run))}: no such file{others}")
    return path


def _released_weights(manifest: ReleaseManifest) -> Path:
    """The file of a released model's weights, verified."""
    path = WEIGHTS / manifest.weights
    if not path.is_file() and (old := _REGISTRY / "weights" / manifest.weights).is_file():
        path = old
    if not path.is_file():
        raise ValueError(f"{path}: the released weights are missing from this installation; reinstall ulzoo")
    manifest.verify(manifest.weights, path, "reinstall ulzoo")
    return path


def open_results(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metrics of a trained model, as {"figures", "protocol"}.

    Args:
        name_or_path: the name of a released model, an address on the hub, an exported file, a run directory, or a JSON
            file that `ulzoo evaluate` wrote.

    Raises:
        ValueError: none of these, or it has no metrics.
    """
    from ulzoo.files import tensor_file

    name = text_of(name_or_path)
    path = Path(name)
    if hub.is_address(name):
        manifest = hub.find_model(name).manifest
        return {"figures": manifest.figures, "protocol": manifest.protocol}
    if release := find_release(name_or_path):
        return {"figures": release.figures, "protocol": release.protocol}
    if path.is_dir():
        path = path / "figures.json"
        if not path.exists():
            raise ValueError(f"{name}: contains no figures.json; training has not finished, or it is no run directory")
    if not path.exists():
        raise ValueError(f"{name}: neither a released model nor a file or run directory")
    if path.suffix == ".json":
        try:
            results = json.loads(path.read_text("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
    else:
        results = tensor_file.read_metadata(path)["results"]
    if isinstance(results, dict) and "curve" in results:
        raise ValueError(f"{name}: contains a curve over loss factors; compare the models at one of them")
    if not isinstance(results, dict) or not {"figures", "protocol"} <= results.keys():
        raise ValueError(
            f"{name}: contains no metrics with their protocol; use a file of `ulzoo evaluate {name} --out FILE.json`"
        )
    return results
