"""The zoo: specs by name, released models by name, and every way to get a model."""

import fnmatch
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ulzoo.files import sha256
from ulzoo.registry.schema import Spec, diff
from ulzoo.registry.spec import find_specs, load_spec
from ulzoo.registry.table import suggest

if TYPE_CHECKING:
    import torch

    from ulzoo.model import UnifiedLatents
    from ulzoo.registry.export import Export


class Card(BaseModel):
    """A released model's card, `registry/cards/NAME.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="name of the model and of its spec")
    weights: str = Field(description="file in registry/weights")
    sha256: str = Field(description="of that file")
    license: str = Field(description="of the weights")
    data: str = Field(description="what it was trained on, and whose work that is")
    command: str = Field(description="the command that trained it")
    trained: str = Field(description="on what machine, for how long")
    figures: dict[str, float | list[float]] = Field(description="measured on validation data")
    protocol: dict[str, Any] = Field(description="how they were measured")
    notes: str = Field(default="", description="what to expect of it")

    @property
    def path(self) -> Path:
        return Path(str(files("ulzoo.registry") / "weights" / self.weights))


@cache
def cards() -> dict[str, Card]:
    """The released models by name."""
    folder = files("ulzoo.registry") / "cards"
    found = [
        Card(**yaml.safe_load(entry.read_text("utf-8"))) for entry in folder.iterdir() if entry.name.endswith(".yaml")
    ]
    return {card.name: card for card in sorted(found, key=lambda card: card.name)}


def list_models(pattern: str = "*", pretrained: bool | None = None) -> list[str]:
    """Names of packaged specs that match a shell pattern.

    Args:
        pattern: such as "imagenet*".
        pretrained: True for those with released weights only, False for those without, None for all.
    """
    names = [name for name in find_specs() if pretrained is None or (name in cards()) == pretrained]
    return sorted(fnmatch.filter(names, pattern))


def create_model(
    name_or_path_or_spec: str | os.PathLike[str] | Spec, pretrained: bool = False, overrides: Iterable[str] = ()
) -> "UnifiedLatents":
    """A model from a spec, with fresh weights or the released ones.

    Args:
        name_or_path_or_spec: a packaged spec's name, a YAML file, or a spec.
        pretrained: load the released weights; only `train` and `sample` may then be overridden.
        overrides: "key.path=value", as `--set`.

    Raises:
        ValueError: a spec with an error (`SpecError`), no released weights, or weights with a wrong hash.
    """
    from ulzoo.registry.compile import compile_model, sampling_defaults

    spec = name_or_path_or_spec
    if not isinstance(spec, Spec):
        spec = load_spec(spec, overrides)
    elif tuple(overrides):
        raise ValueError("overrides apply to a spec's file; this spec is already resolved")
    if pretrained:
        released = open_model(spec.name)
        changed = [key for key in diff(released.spec, spec) if not key.startswith(("description", "train.", "sample."))]
        if changed:
            raise ValueError(f"the released weights of {spec.name} do not fit a changed {', '.join(changed)}")
        model = released.model
        model.contract = replace(model.contract, sampling=sampling_defaults(spec))
        return model
    return compile_model(spec)


def load(name_or_path: str | os.PathLike[str], device: "torch.device | str" = "cpu") -> "UnifiedLatents":
    """A trained model in eval mode, from a released model's name, an exported file or a run directory.

    Raises:
        ValueError: unknown name; not an export; weights with a wrong hash.
    """
    return open_model(name_or_path, device).model


def open_model(name_or_path: str | os.PathLike[str], device: "torch.device | str" = "cpu") -> "Export":
    """As `load`, with the spec and the figures."""
    from ulzoo.registry.export import load_export

    name = os.fspath(name_or_path)
    if name.startswith("hf://"):
        raise ValueError(
            f"{name}: loading from the Hugging Face hub is not in this version; download the file and give its path"
        )
    path = Path(name)
    if card := cards().get(name):
        path = card.path
        _check_hash(card)
    elif path.is_dir():
        path = path / "model.safetensors"
        if not path.is_file():
            raise ValueError(f"{name}: holds no model.safetensors; has its training ended?")
    elif not path.is_file():
        if name in find_specs():
            raise ValueError(
                f"{name}: no weights are released for this spec; train it, or load one of {', '.join(cards())}"
            )
        raise ValueError(f"{name}: no such file, run directory or released model{suggest(name, cards())}")
    return load_export(path, device)


def _check_hash(card: Card) -> None:
    if not card.path.is_file():
        raise ValueError(f"{card.path}: the released weights are missing from this installation; reinstall ulzoo")
    found = sha256(card.path)
    if found != card.sha256:
        raise ValueError(f"{card.path}: SHA-256 is {found[:12]}…, its card says {card.sha256[:12]}…; reinstall ulzoo")
