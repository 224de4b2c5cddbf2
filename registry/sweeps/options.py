"""A sweep from what a command line says: a spec and lists of values, or a sweep's name or file."""

import os
import re
from collections.abc import Mapping, Sequence

from ulzoo.registry.spec.loading import SPECS
from ulzoo.registry.spec.sweep import Sweep, find_sweeps, is_sweep, load_sweep
from ulzoo.registry.spec.yaml_source import Node, SpecError, parse_override, parse_yaml

DEMO = "emoji32_tiny"
PAPER = "paper"
"""Instead of values: those of the paper."""
HERE = "the command line"


class GridAxis:
    """An option for a key that the paper sweeps.

    Args:
        option: on the command line.
        key: path in a spec.
        table: the last part of the names of the packaged sweeps that have the paper's values.
    """

    def __init__(self, option: str, key: str, table: str) -> None:
        self.option, self.key, self.table = option, key, table

    def values(self, text: str, spec: str) -> Node:
        """The values that a user wrote, or the paper's."""
        if text == PAPER:
            found = [name for name in find_sweeps() if name.endswith(f"/{self.table}")]
            twin = next((name for name in found if load_sweep(name).spec == spec), f"paper/{self.table}")
            where = f"{self.option} {text}"
            return Node([Node(value, where) for value in _of_key(load_sweep(twin), self.key)], where)
        return several(text, f"{self.option} {text}".strip())


AXES = (
    GridAxis("--latent-channels", "latent.channels", "table3_channels"),
    GridAxis("--bias", "decoder.weighting.bias", "figure8_bias"),
    GridAxis("--loss-factor", "decoder.weighting.loss_factor", "table2_loss_factor"),
)


def sweep_from_options(
    target: str | None, axes: Mapping[str, str | None], settings: Sequence[str] = (), seeds: int = 1
) -> tuple[Sweep, list[str]]:
    """The sweep, and overrides for all its points.

    Args:
        target: a spec or a sweep, by name or path; None is the demo.
        axes: option of `AXES` -> values separated by commas, `PAPER`, or None where it was not given.
        settings: `a.b=v1,v2` adds an axis, `a.b=v` is an override. Values are YAML: `a=[4,4],[8,8]` are two.
        seeds: with more than one there need be no axis.

    Raises:
        SpecError: whatever is wrong, with the option that is to blame.
    """
    target = target or DEMO
    asked = {axis.option: text for axis in AXES if (text := axes.get(axis.option)) is not None}
    overrides, grids = [], dict[str, Node]()
    for text in settings:
        if values := _grid_of(text):
            key = text.partition("=")[0].strip()
            _once(key, grids, f"--set {text}")
            grids[key] = values
        else:
            parse_override(text)
            overrides.append(text)
    if is_sweep(target):
        if asked or grids:
            option = next(iter(asked), None) or f"--set {next(iter(grids))}"
            raise SpecError(f"{option}: {target} is a sweep, which has its points; give a spec to make a grid of")
        return load_sweep(target), overrides
    spec = SPECS.read(target)  # before the paper's values are looked up, so that a misspelt name is the error
    named = spec.plain().get("name", "sweep")
    lists = {axis.key: axis.values(asked[axis.option], target) for axis in AXES if axis.option in asked}
    for key, values in lists.items():
        _once(key, grids, values.where)
    line = AXES[-1].key
    ordered = {key: values for key, values in {**lists, **grids}.items() if key != line}
    ordered |= {key: values for key, values in {**lists, **grids}.items() if key == line}
    if not ordered and seeds == 1:
        options = ", ".join([*(axis.option for axis in AXES), "--set KEY=V1,V2", "--seeds"])
        raise SpecError(f"nothing to sweep over: give {options}, or a sweep such as {_example()}")
    points = {} if ordered else {str(named): Node({}, HERE)}
    keys = {
        "name": Node(str(named), HERE),
        "spec": Node(target, HERE),
        "columns": Node([Node(name, HERE) for name in _columns(spec)], HERE),
        "points": Node(points, HERE),
        "grid": Node(ordered, HERE),
    }
    return Sweep.from_source(Node(keys, HERE)), overrides


def looks_like_values(text: str) -> bool:
    """Whether a word after an option is meant as its values: numbers, anything with a comma, or `PAPER`."""
    return text == PAPER or "," in text or re.fullmatch(r"\[.*|[-+]?\.?\d+(\.\d*)?([eE][-+]?\d+)?", text) is not None


def several(text: str, where: str) -> Node:
    """Values separated by commas, each as YAML."""
    node = parse_yaml(f"[{text}]", where, lines=False)
    if not isinstance(node.value, list) or not node.value:
        raise SpecError(f"{where}: an empty grid; give values separated by commas")
    return node


def _grid_of(text: str) -> Node | None:
    """The values of `a.b=v1,v2`, or None if it has one, as a list in brackets is."""
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or "," not in values:
        return None
    node = several(values, f"--set {text}")
    assert isinstance(node.value, list)
    return node if len(node.value) > 1 else None


def _once(key: str, grids: Mapping[str, Node], where: str) -> None:
    if key in grids:
        raise SpecError(f"{where}: {key} has values already, from {grids[key].where}")


def _of_key(sweep: Sweep, key: str) -> list[int | float]:
    """The values that a sweep's points give to a key, each once."""
    return list(dict.fromkeys(point.set[key] for point in sweep.list_points() if key in point.set))


def _columns(spec: Node) -> list[str]:
    keys = spec.plain()
    by_base = ["base_bits_per_pixel"] if keys.get("base") and keys.get("prior") else []
    return ["bits_per_pixel", *by_base, "psnr_db"]


def _example() -> str:
    return next((name for name in find_sweeps() if name.endswith("table2_loss_factor")), "FILE.yaml")


def default_folder(sweep: Sweep) -> str:
    """Where a sweep's results go unless told otherwise."""
    words = [word for word in sweep.name.split("/") if word.strip(".")]
    return os.path.join("runs", "sweeps", *words[:-1], words[-1] if words else "sweep")
