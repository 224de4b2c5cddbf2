"""From the command line to a sweep: a spec with lists of values, or the name or file of a sweep."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ulzoo.registry.spec.loading import SPECS
from ulzoo.registry.spec.sweep import Sweep, find_sweeps, is_sweep, load_sweep
from ulzoo.registry.spec.yaml_source import Node, SpecError, list_overrides, parse_override, parse_yaml

DEMO = "emoji32_tiny"
PAPER = "paper"
"""Stands for the paper's values."""
COMMAND_LINE = "the command line"


@dataclass(frozen=True)
class GridAxis:
    """An option for a key over which the paper sweeps.

    Attributes:
        option: name of the command-line option.
        key: key path in a spec.
        table: last part of the names of the packaged sweeps with the paper's values.
    """

    option: str
    key: str
    table: str

    def values(self, text: str, spec: str) -> Node:
        """The values in `text`, or the paper's for a spec."""
        if text == PAPER:
            where = f"{self.option} {text}"
            return Node([Node(value, where) for value in _values_of_key(self._table(spec), self.key)], where)
        return parse_values(text, f"{self.option} {text}".strip())

    def settings(self, text: str, spec: str) -> dict[str, Any]:
        """What the spec's own table sets for all points, if the values are the paper's; other keys are not swept."""
        table = self._table(spec) if text == PAPER else None
        return {} if table is None or table.spec != spec else table.set

    def _table(self, spec: str) -> Sweep:
        """The table of a spec; the paper's own if it has none."""
        tables = [load_sweep(name) for name in find_sweeps() if name.endswith(f"/{self.table}")]
        return next((table for table in tables if table.spec == spec), load_sweep(f"paper/{self.table}"))


AXES = (
    GridAxis("--latent-channels", "latent.channels", "table3_channels"),
    GridAxis("--bias", "decoder.weighting.bias", "figure8_bias"),
    GridAxis("--loss-factor", "decoder.weighting.loss_factor", "table2_loss_factor"),
)


def sweep_from_options(
    target: str | None, axes: Mapping[str, str | None], settings: Sequence[str] = (), seeds: int = 1
) -> tuple[Sweep, list[str]]:
    """The sweep, and the overrides for all its points.

    Args:
        target: name or path of a spec or a sweep; None: the demo.
        axes: option of `AXES` -> comma-separated values, `PAPER`, or None if the option was not given.
        settings: `a.b=v1,v2` adds an axis, `a.b=v` is an override. Values are YAML: `a=[4,4],[8,8]` are two.
        seeds: number of seeds; more than one needs no axis.

    Raises:
        SpecError: an option is invalid; the message names it.
    """
    target = target or DEMO
    given = {axis.option: text for axis in AXES if (text := axes.get(axis.option)) is not None}
    overrides, grids = [], dict[str, Node]()
    for text in list_overrides(settings):
        if values := _parse_grid(text):
            key = text.partition("=")[0].strip()
            _check_unique(key, grids, f"--set {text}")
            grids[key] = values
        else:
            parse_override(text)
            overrides.append(text)
    if is_sweep(target):
        if given or grids:
            option = next(iter(given), None) or f"--set {next(iter(grids))}"
            raise SpecError(f"{option}: {target} is a sweep, which has its points; give a spec to build a grid from")
        return load_sweep(target), overrides
    spec = SPECS.read(target)  # first, so that a misspelt name is reported before anything else
    name = spec.plain().get("name", "sweep")
    lists = {axis.key: axis.values(given[axis.option], target) for axis in AXES if axis.option in given}
    for key, values in lists.items():
        _check_unique(key, grids, values.where)
    line = AXES[-1].key
    ordered = {key: values for key, values in {**lists, **grids}.items() if key != line}
    ordered |= {key: values for key, values in {**lists, **grids}.items() if key == line}
    if not ordered and seeds == 1:
        options = ", ".join([*(axis.option for axis in AXES), "--set KEY=V1,V2", "--seeds"])
        raise SpecError(f"nothing to sweep over: give {options}, or a sweep such as {_example_name()}")
    shared: dict[str, Any] = {}
    for axis in AXES:
        shared |= axis.settings(given.get(axis.option, ""), target)
    points = {} if ordered else {str(name): Node({}, COMMAND_LINE)}
    keys = {
        "name": Node(str(name), COMMAND_LINE),
        "spec": Node(target, COMMAND_LINE),
        "set": Node({key: Node(v, COMMAND_LINE) for key, v in shared.items() if key not in ordered}, COMMAND_LINE),
        "columns": Node([Node(column, COMMAND_LINE) for column in _columns(spec)], COMMAND_LINE),
        "points": Node(points, COMMAND_LINE),
        "grid": Node(ordered, COMMAND_LINE),
    }
    return Sweep.from_source(Node(keys, COMMAND_LINE)), overrides


def looks_like_values(text: str) -> bool:
    """Whether the word after an option is its values: a number, anything with a comma, or `PAPER`."""
    return text == PAPER or "," in text or re.fullmatch(r"\[.*|[-+]?\.?\d+(\.\d*)?([eE][-+]?\d+)?", text) is not None


def parse_values(text: str, where: str) -> Node:
    """Comma-separated values, each parsed as YAML."""
    node = parse_yaml(f"[{text}]", where, lines=False)
    if not isinstance(node.value, list) or not node.value:
        raise SpecError(f"{where}: an empty grid; give values separated by commas")
    return node


def _parse_grid(text: str) -> Node | None:
    """The values of `a.b=v1,v2`; None if there is a single one, such as a list in brackets."""
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or "," not in values:
        return None
    node = parse_values(values, f"--set {text}")
    assert isinstance(node.value, list)
    return node if len(node.value) > 1 else None


def _check_unique(key: str, grids: Mapping[str, Node], where: str) -> None:
    if key in grids:
        raise SpecError(f"{where}: {key} already has values, from {grids[key].where}")


def _values_of_key(sweep: Sweep, key: str) -> list[int | float]:
    """The distinct values of a key in the points of a sweep."""
    return list(dict.fromkeys(point.set[key] for point in sweep.list_points() if key in point.set))


def _columns(spec: Node) -> list[str]:
    keys = spec.plain()
    base = ["base_bits_per_pixel"] if keys.get("base") and keys.get("prior") else []
    return ["bits_per_pixel", *base, "psnr_db"]


def _example_name() -> str:
    return next((name for name in find_sweeps() if name.endswith("table2_loss_factor")), "FILE.yaml")


def default_folder(sweep: Sweep) -> str:
    """The folder of a sweep's results if --out is not given."""
    words = [word for word in sweep.name.split("/") if word.strip(".")]
    return os.path.join("runs", "sweeps", *words[:-1], words[-1] if words else "sweep")
