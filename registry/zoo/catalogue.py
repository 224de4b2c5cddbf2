"""The zoo: specs by name, released models by name, and every way to get a model."""

import fnmatch
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulzoo.registry.spec.loading import SPECS, find_specs, find_sweeps, spec_from_source
from ulzoo.registry.spec.schema import Spec, diff
from ulzoo.registry.spec.sweep import is_sweep, load_sweep
from ulzoo.registry.spec.yaml_source import SpecError, parse_override
from ulzoo.registry.zoo import hub
from ulzoo.registry.zoo.release import ReleaseManifest, read_manifest
from ulzoo.runtime.messages import suggest

if TYPE_CHECKING:
    import torch

    from ulzoo.model.unified_latents import UnifiedLatents
    from ulzoo.registry.runs.export import Export

WEIGHTS = Path(str(files("ulzoo.registry.zoo") / "weights"))


@cache
def cards() -> dict[str, ReleaseManifest]:
    """The released models by name."""
    folder = Path(str(files("ulzoo.registry.zoo") / "releases"))
    found = [read_manifest(path, path.name) for path in sorted(folder.glob("*.yaml"))]
    return {card.name: card for card in found}


def list_models(pattern: str = "*", pretrained: bool | None = None) -> list[str]:
    """Names of packaged specs that match a shell pattern.

    Args:
        pattern: such as "imagenet*".
        pretrained: True for those with released weights only, False for those without, None for all.
    """
    names = [name for name in find_specs() if pretrained is None or (name in cards()) == pretrained]
    return sorted(fnmatch.filter(names, pattern))


def load_spec(name_or_path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Spec:
    """The spec of a packaged name or a file (`x.yaml`, or anything with a slash), with `a.b=c` overrides applied.

    `paper/table2_loss_factor:1.9` is the point 1.9 of that sweep, `hf://org/repo@revision` the spec of a model there.

    Raises:
        SpecError: whatever is wrong, in one line.
        ValueError: the model on the hub cannot be had.
    """
    text = os.fspath(name_or_path)
    if hub.is_address(text):
        return spec_from_source(hub.find(text).spec(), [parse_override(text) for text in overrides])
    sweep, colon, point = text.rpartition(":")
    if colon and is_sweep(sweep):
        return load_sweep(sweep).resolve_point(point, overrides)
    if is_sweep(text):
        raise SpecError(f"{text} is a sweep: give one of its points, as {text}:POINT; `ulzoo show {text}` lists them")
    if "/" in text and not os.path.exists(text) and (close := get_close_matches(text, find_sweeps(), n=1)):
        raise SpecError(f"{text}: no such file; did you mean a point of the packaged sweep {close[0]!r}?")
    return spec_from_source(SPECS.read(name_or_path), [parse_override(text) for text in overrides])


def create_model(
    name_or_path_or_spec: str | os.PathLike[str] | Spec, pretrained: bool = False, overrides: Iterable[str] = ()
) -> "UnifiedLatents":
    """A model from a spec, with fresh weights or the released ones.

    Args:
        name_or_path_or_spec: a packaged spec's name, a YAML file, `hf://org/repo@revision`, or a spec.
        pretrained: load the released weights; only `train` and `sample` may then be overridden.
        overrides: "key.path=value", as `--set`.

    Raises:
        ValueError: a spec with an error (`SpecError`), no released weights, or weights with a wrong hash.
    """
    from ulzoo.registry.compile import compile_model, sampling_defaults

    given = name_or_path_or_spec
    if isinstance(given, Spec) and tuple(overrides):
        raise ValueError("overrides apply to a spec's file; this spec is already resolved")
    spec = given if isinstance(given, Spec) else load_spec(given, overrides)
    if pretrained:
        released = open_model(given if isinstance(given, str) and hub.is_address(given) else spec.name)
        changed = [key for key in diff(released.spec, spec) if not key.startswith(("description", "train.", "sample."))]
        if changed:
            raise ValueError(f"the released weights of {spec.name} do not fit a changed {', '.join(changed)}")
        model = released.model
        model.contract = replace(model.contract, sampling=sampling_defaults(spec))
        return model
    return compile_model(spec)


def load(name_or_path: str | os.PathLike[str], device: "torch.device | str" = "cpu") -> "UnifiedLatents":
    """A trained model in eval mode, from a released model's name, an exported file or a run directory.

    Or from the Hugging Face hub, `hf://org/repo` or `hf://org/repo@revision`: see `ulzoo.registry.zoo.hub`.

    Raises:
        ValueError: unknown name; not an export; weights with a wrong hash; the hub is out of reach.
    """
    return open_model(name_or_path, device).model


def open_model(name_or_path: str | os.PathLike[str], device: "torch.device | str" = "cpu") -> "Export":
    """As `load`, with the spec and the figures."""
    from ulzoo.registry.runs.export import load_export

    name = os.fspath(name_or_path)
    if hub.is_address(name):
        return load_export(hub.find(name).weights(), device)
    if card := cards().get(name):
        return load_export(_released(card), device)
    if name in find_specs() and not Path(name).exists():
        raise ValueError(
            f"{name}: no weights are released for this spec; train it, or load one of {', '.join(cards())}"
        )
    return load_export(trained_file(name, released=True), device)


def trained_file(file_or_run: str | os.PathLike[str], released: bool = False) -> Path:
    """The weights of a run, or the file itself, which may be in parts.

    ValueError if there are none, nor a `released` model of that name.
    """
    from ulzoo.files.tensor_file import files_of, is_checkpoint

    path = Path(file_or_run)
    if path.is_dir() and not is_checkpoint(path):
        path /= "model.safetensors"
        if not files_of(path):
            raise ValueError(f"{file_or_run}: holds no model.safetensors; has its training ended?")
    elif not files_of(path) and not is_checkpoint(path):
        what = f", run directory or released model{suggest(path, cards())}" if released else " or run directory"
        raise ValueError(f"{file_or_run}: no such file{what}")
    return path


def _released(card: ReleaseManifest) -> Path:
    """The weights of a released model, checked."""
    path = WEIGHTS / card.weights
    if not path.is_file():
        raise ValueError(f"{path}: the released weights are missing from this installation; reinstall ulzoo")
    card.check(card.weights, path, "reinstall ulzoo")
    return path


def open_results(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """{"figures", "protocol"} of a released model, an exported file, a run directory, or a JSON file of `evaluate`.

    Of a model on the hub, `hf://org/repo`, they are its card's.

    Raises:
        ValueError: none of these, or one without figures.
    """
    from ulzoo.files import tensor_file

    name = os.fspath(name_or_path)
    path = Path(name)
    if hub.is_address(name):
        card = hub.find(name).card
        return {"figures": card.figures, "protocol": card.protocol}
    if (card := cards().get(name)) and not path.exists():
        return {"figures": card.figures, "protocol": card.protocol}
    if path.is_dir():
        path = path / "figures.json"
        if not path.exists():
            raise ValueError(f"{name}: holds no figures.json; its training has not ended, or it is no run directory")
    if not path.exists():
        raise ValueError(f"{name}: neither a released model nor a file or run directory")
    if path.suffix == ".json":
        try:
            results = json.loads(path.read_text("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
    else:
        results = tensor_file.read_metadata(path)["results"]
    if not isinstance(results, dict) or not {"figures", "protocol"} <= results.keys():
        raise ValueError(f"{name}: has no figures with their protocol; `ulzoo evaluate {name} --out FILE.json` has")
    return results
