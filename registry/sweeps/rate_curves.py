"""The curves of the variable-rate models of a sweep: measured for one point, and as rows beside those of other points.

A row of such a point has `curve`, its metrics at several loss factors, which may stand in the sweep's file as
`loss_factors`; its `figures` are those at the middle of the range.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ulzoo.evaluation.mean_image import MeanImage
from ulzoo.registry.compile import open_source
from ulzoo.registry.runs import train as training_run
from ulzoo.registry.runs.rate_curve import measure_curve
from ulzoo.registry.runs.validation import validate
from ulzoo.registry.spec.sweep import curve_point
from ulzoo.registry.sweeps.distances import DistanceConfig, distances_of
from ulzoo.registry.sweeps.jobs import LOSS_FACTOR
from ulzoo.registry.sweeps.store import ResultRow
from ulzoo.registry.zoo.catalogue import open_model

CONTROLS = ("loss_factor", "bias")


def measure_run_curve(
    loss_factors: Sequence[float], distances: DistanceConfig | None, folder: Path, device: str
) -> list[dict[str, Any]]:
    """The metrics that a run ends with, and distances, of the model that it exported, at several loss factors.

    Where the base was not trained at a loss factor, nothing that needs it is measured.

    Returns:
        {"loss_factor", "figures", "protocol"} for each of them.
    """
    export = open_model(str(folder), device)
    model, validation = export.model, open_source(export.spec, "val")
    mean_image = MeanImage.from_dict(export.results.get("mean_image"), model.contract.channels)
    limit = training_run.EVALUATED_CLIPS if model.contract.video else training_run.EVALUATED_IMAGES

    def measure(factor: float) -> dict[str, Any]:
        results = validate(
            export.spec, model, validation, mean_image, limit=limit, on_progress=lambda done, total: None
        )
        measured = {key: results[key] for key in ("figures", "protocol")}
        sampled = model.contract.single_stage or model.trained_at_default("base")
        config = distances if distances is None or sampled else replace(distances, samples=None, clip_score=None)
        if config and (config.of_images or sampled):
            compared = distances_of(config, export, device)
            measured = {key: {**value, **compared[key]} for key, value in measured.items()}
        return measured

    return measure_curve(model, loss_factors, measure)


def expand_curves(rows: Iterable[ResultRow]) -> list[dict[str, Any]]:
    """The rows, where those with a curve are replaced by a row for each of its loss factors, as if trained at it.

    The loss factor is part of the point's name and of its settings, and no longer of the protocols.
    """
    expanded = []
    for row in rows:
        for entry in row.get("curve") or ():
            factor = entry["loss_factor"]
            point = {"point": curve_point(row["point"], factor), "set": {**row["set"], LOSS_FACTOR: factor}}
            own = {"figures": entry["figures"], "protocol": _without_controls(entry["protocol"])}
            expanded.append({**row, **point, **own, "paper": {}, "curve": None})
        if not row.get("curve"):
            expanded.append({**row, "protocol": _without_controls(row.get("protocol") or {})})
    return expanded


def _without_controls(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol without the loss factor and bias of the model, in its parts too."""
    return {
        key: _without_controls(value) if isinstance(value, Mapping) and key != "data" else value
        for key, value in protocol.items()
        if key not in CONTROLS
    }
