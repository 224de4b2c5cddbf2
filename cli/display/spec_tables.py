"""Specs and sweeps as tables: the zoo, the blocks of a model and its totals, the points of a sweep."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ulzoo.cli.display.tables import pair_table, plain_table
from ulzoo.cli.display.terminal import examples, gflops, scaled, shape, short_shape

if TYPE_CHECKING:
    from rich.table import Table

    from ulzoo.registry.cost.summary import ModelSummary
    from ulzoo.registry.spec.sweep import Point, Sweep
    from ulzoo.registry.zoo.overview import Entry


def zoo_table(entries: "Sequence[Entry]", narrow: bool = False) -> "Table":
    """One packaged spec per row; a narrow table, of 80 characters, has no data and no costs."""
    wide_only = ("data", "GFLOPs\nstage1", "GFLOPs\nbase")
    headers = ("name", "data", "size", "latent", "params", *wide_only[1:], "bits/\npixel", "PSNR\ndB", "weights")
    shown = [header for header in headers if not (narrow and header in wide_only)]
    table = plain_table(*shown, left=("data",))
    table.columns[0].no_wrap = True
    if narrow:
        table.padding = (0, 0, 0, 0)
    for entry in entries:
        metrics = entry.figures
        cells = [
            entry.name,
            entry.data,
            short_shape(entry.resolution),
            shape(entry.latent),
            scaled(entry.parameters).replace(" ", ""),
            *(gflops(1e9 * cost) if cost else "–" for cost in (entry.stage1, entry.base)),
            f"{metrics['bits_per_pixel']:.2f}" if "bits_per_pixel" in metrics else "–",
            f"{metrics['psnr_db']:.1f}" if "psnr_db" in metrics else "–",
            "yes" if entry.pretrained else "–",
        ]
        row = dict(zip(headers, cells, strict=True))
        table.add_row(*(row[header] for header in shown))
    return table


def block_table(summary: "ModelSummary") -> "Table":
    """Every network and, below it, its blocks, with equal blocks in one row. The blocks add up to the network."""
    from ulzoo.model.contract import NETWORKS
    from ulzoo.registry.cost.summary import fold

    table = plain_table("block", "class", "output", "parameters", "GFLOPs", left=("class",))
    for network in (name for name in NETWORKS if name in summary.parameters):
        rows = [row for row in summary.blocks if row.path.startswith(f"{network}.")]
        parameters, flops = summary.parameters[network], summary.flops[network]
        table.add_row(network, "", "", f"{parameters:,}", gflops(flops), style="bold")
        for count, row in fold(rows):
            kind = f"{count} × {row.kind}" if count > 1 else row.kind
            path = "  " + row.path.removeprefix(f"{network}.")
            table.add_row(path, kind, shape(row.output), f"{row.parameters:,}", gflops(row.flops))
        other_parameters = parameters - sum(row.parameters for row in rows)
        other_flops = flops - sum(row.flops for row in rows)
        if other_parameters or other_flops:
            table.add_row("  other", "", "", f"{other_parameters:,}", gflops(other_flops))
        table.add_section()
    return table


def totals_table(summary: "ModelSummary") -> "Table":
    """Sizes of the data and the latent, parameters, GFLOPs of inference and training."""
    dimensions, pixels = math.prod(summary.latent), math.prod(summary.resolution)
    training = ", ".join(f"{gflops(summary.training_flops(stage))} ({stage})" for stage in summary.stages)
    kind = examples(summary.resolution, plural=False)
    table = pair_table()
    table.add_row(kind, f"{shape(summary.resolution)} pixels")
    table.add_row("latent", f"{shape(summary.latent)}: {dimensions:,} dimensions")
    table.add_row("rate", f"bits/pixel = {dimensions / pixels:g} × bits/dimension (dimensions over pixels)")
    table.add_row("parameters", f"{sum(summary.parameters.values()):,} ({scaled(sum(summary.parameters.values()))})")
    table.add_row(f"forward GFLOPs/{kind}", f"{gflops(sum(summary.flops.values()))}, each network once")
    table.add_row(f"training GFLOPs/{kind}", training)
    return table


def difference_table(first: str, second: str, differences: Mapping[str, tuple[Any, Any]]) -> "Table":
    """One key per row on which two specs differ, with a dash where a spec does not have the key."""
    table = plain_table("key", first, second, left=(first, second))
    for key, (a, b) in differences.items():
        table.add_row(key, _value(a), _value(b))
    return table


def sweep_heading(sweep: "Sweep") -> "Table":
    """What a sweep compares, and what all its points share."""
    table = pair_table()
    rows = {"sweep": sweep.name, "compares": sweep.description, "paper": sweep.source, "finding": sweep.expect}
    for name, text in (rows | {"spec": sweep.spec, "set for all": _settings(sweep.set)}).items():
        if text:
            table.add_row(name, text)
    return table


def point_table(sweep: "Sweep", points: "Sequence[Point]") -> "Table":
    """One point per row: its spec if it differs from the sweep's, its settings, metrics of the paper."""
    from ulzoo.registry.spec.sweep import METRICS

    columns = [name for name in sweep.columns if any(name in point.paper for point in points)] or sweep.columns
    units = {name: METRICS[name].unit.replace("dimension", "dim") for name in columns}
    titles = [f"{METRICS[name].title}\n{units[name]}".strip() for name in columns]
    table = plain_table("point", "set", *titles, left=("set",))
    table.columns[0].no_wrap = True
    for point in points:
        spec = [f"spec={point.spec}"] if point.spec != sweep.spec else []
        settings = [text for text in (*spec, _settings(point.set)) if text]
        metrics = [f"{point.paper[name]:g}" if name in point.paper else "–" for name in columns]
        table.add_row(point.name, "\n".join(settings), *metrics)
    return table


def _settings(settings: Mapping[str, Any]) -> str:
    """key.path=value, one per line."""
    return "\n".join(f"{key}={_value(value, missing='null')}" for key, value in settings.items())


def _value(value: Any, missing: str = "–") -> str:
    """A value as YAML writes it on one line; of a large mapping only the first items."""
    if value is None or isinstance(value, str):
        return value or missing
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item, 'null') for item in value)}]"
    if isinstance(value, dict):
        items = [f"{key}: {_value(item, 'null')}" for key, item in value.items()]
        return f"{{{', '.join([*items[:2], '…'] if len(items) > 4 or len(str(items)) > 80 else items)}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)
