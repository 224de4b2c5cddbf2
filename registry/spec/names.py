"""Loading a spec: name or file -> `extends` merged -> overrides -> checked; every error one line that says where."""

import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

from ulzoo.registry.spec.errors import validated
from ulzoo.registry.spec.loading import Library
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.yaml_source import Node, SpecError, located, merge, parse_override
from ulzoo.registry.zoo import hub

__all__ = [
    "SPECS",
    "SpecError",
    "find_specs",
    "find_sweeps",
    "load_spec",
    "located",
    "spec_from_dict",
    "spec_from_source",
]


def find_specs() -> dict[str, Path]:
    """The packaged specs, name -> file."""
    folder = Path(str(files("ulzoo.specs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_sweeps() -> dict[str, Path]:
    """The packaged sweeps, such as "paper/table2_loss_factor" -> file: the YAML in folders below the specs."""
    folder = Path(str(files("ulzoo.specs")))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("*/**/*.yaml"))}


SPECS = Library("spec", find_specs)


def load_spec(name_or_path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Spec:
    """The spec of a packaged name or a file (`x.yaml`, or anything with a slash), with `a.b=c` overrides applied.

    `paper/table2_loss_factor:1.9` is the point 1.9 of that sweep, `hf://org/repo@revision` the spec of a model there.

    Raises:
        SpecError: whatever is wrong, in one line.
        ValueError: the model on the hub cannot be had.
    """
    from ulzoo.registry.spec.sweep import is_sweep, load_sweep

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


def spec_from_source(source: Node, overlay: Sequence[Node] = ()) -> Spec:
    """The spec of a file's mapping under those of `overlay`, the later over the earlier.

    The overlay is merged first among itself, so that the order of `kind` and its keys does not matter.
    """
    if overlay:
        source = merge(source, reduce(merge, overlay))
    spec = validated(Spec, source.plain(), source)
    spec._source = source
    return spec


def spec_from_dict(data: Mapping[str, Any]) -> Spec:
    """The spec of plain data, as `Spec.to_dict` gives it; its errors name key paths only."""
    return validated(Spec, data, None)
