"""A sweep as one HTML page: plot, filters, table and pictures in a single file that loads nothing from a network.

The page is assembled from `assets/`: HTML, style and scripts without a library, with the rows embedded as JSON.
Whatever a row contains is shown as text, never as HTML; a Content-Security-Policy keeps the page from loading anything.

The chart is an SVG drawn by assets/chart.js (200 lines) rather than by plotly, which was measured in headless Chromium:
plotly.js adds 4.8 MB to a page of 0.1 MB, draws 10,000 points as 10,228 elements in 1.1 s (here: one path for each
colour, 0.15 s), does not reach points by keyboard or announce them to screen readers, and interprets markup in its
hover labels. `ulzoo plot` exports the plots as PNG and SVG.
"""

import base64
import html
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ulzoo.files.atomic import write_text
from ulzoo.registry.report.curves import Mean, ResultRow, average, bd_psnr, bd_rate, curve, is_number, pareto
from ulzoo.registry.report.plots import better_direction
from ulzoo.registry.spec.sweep import METRICS
from ulzoo.registry.sweeps.rate_curves import expand_curves
from ulzoo.registry.sweeps.store import Store
from ulzoo.registry.sweeps.variants import separate_variants

MAX_PICTURED_POINTS = 60
MAX_PICTURE_BYTES = 8 * 2**20
PICTURE_WIDTH = 1200
PICTURES = ("reconstructions", "samples")
MAX_COMPARED_SERIES = 20
ERROR_SUFFIXES = {"_mc_se": "error of the noise", "_se": "standard error"}
SCRIPTS = ("chart.js", "table.js", "page.js")


@dataclass(frozen=True)
class ReportColumn:
    """A number that rows have.

    Attributes:
        name: key of the row.
        title, unit: the heading.
        better: which values are better, "lower", "higher" or "".
        digits: number of digits after the decimal point; None for as many as needed.
        cost: whether this is a cost rather than a metric.
        detail: whether it is shown for a single point only, like standard errors.
    """

    name: str
    title: str
    unit: str = ""
    better: str = ""
    digits: int | None = None
    cost: bool = False
    detail: bool = False


COSTS = (
    ReportColumn("gflops", "base, forward", "GFLOPs", cost=True),
    ReportColumn("training_flops", "training", "FLOPs", cost=True),
    ReportColumn("parameters", "parameters", cost=True),
    ReportColumn("seconds", "time", "s", digits=1, cost=True),
)


def write_report(store: Store, path: Path | None = None) -> Path:
    """Write the page of a store atomically.

    Args:
        path: the file to write; default: report.html in the store's folder.

    Returns:
        The path of the file.
    """
    path = path or store.folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(describe(store)))
    return path


def render(data: dict[str, Any]) -> str:
    """The HTML of the page for the data that `describe` returns."""
    assets = files("ulzoo.registry.report") / "assets"
    scripts = [assets.joinpath(name).read_text("utf-8") for name in SCRIPTS]
    parts = {
        "title": html.escape(data["title"]),
        "style": assets.joinpath("page.css").read_text("utf-8"),
        "script": "\n".join(script.replace('"use strict";\n', "") for script in scripts),
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"@@(\w+)@@", lambda match: parts[match[1]], assets.joinpath("page.html").read_text("utf-8"))


def describe(store: Store) -> dict[str, Any]:
    """The content of the page as plain data."""
    rows, damaged, sweep = separate_variants(store.rows(), store.folder), store.damaged, store.sweep
    runs = [row for row in rows if row["status"] == "done"]
    done = expand_curves(runs)
    failed = [row for row in rows if row["status"] != "done"]
    columns = list_columns(done, sweep.columns if sweep else ())
    keys = list_keys(done)
    series, specs = _enumerate(_series(row) for row in done), _enumerate(row.get("spec", "") for row in done)
    trainings = _enumerate(row["training"] for row in done)
    protocols = _enumerate(json.dumps(row.get("protocol") or {}, sort_keys=True) for row in done)
    pictures, pictures_of = embed_pictures(store.folder, _picture_order(runs))
    entries = []
    for row in done:
        paper = [_number(row.get("paper") or {}, column.name) for column in columns]
        entry = {
            "point": row["point"],
            "series": series[_series(row)],
            "spec": specs[row.get("spec", "")],
            "training": trainings[row["training"]],
            "overrides": list((row.get("overrides") or {}).items()),
            "seed": row.get("seed"),
            "settings": [_setting(row, key["name"]) for key in keys],
            "values": [_value(row, column) for column in columns],
            "hash": row["spec_hash"][:16],
            "folder": row.get("folder") or "",
            "pictures": pictures_of.get(row["spec_hash"], []),
        }
        entries.append(entry | ({"paper": paper} if any(value is not None for value in paper) else {}))
    return {
        "title": sweep.name if sweep else store.folder.resolve().name,
        "description": sweep.description if sweep else "",
        "source": sweep.source if sweep else "",
        "expect": sweep.expect if sweep else "",
        "tiles": _tiles(done, runs, failed, len(series)),
        "notices": _notices(damaged, len(protocols), len(pictures_of), len(runs)),
        "columns": [asdict(column) for column in columns],
        "keys": keys,
        "series": list(series),
        "specs": list(specs),
        "rows": entries,
        "pictures": pictures,
        "compared": compare_series(average(done)),
        "failed": [
            {"error": row.get("error") or "", "series": _series(row)}
            | {key: row.get(key) for key in ("point", "seed", "status")}
            for row in failed
        ],
        "protocols": [
            {"rows": sum((row.get("protocol") or {}) == protocol for row in done), "entries": _flatten(protocol)}
            for protocol in map(json.loads, protocols)
            if protocol
        ],
        "footer": _footer(rows),
    }


def list_columns(rows: Iterable[ResultRow], first: Iterable[str] = ()) -> list[ReportColumn]:
    """The metrics that any row has, those named in `first` before the others, followed by the costs."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name, value in row["figures"].items() if is_number(value))
    ordered = [*(name for name in first if name in names), *(name for name in names if name not in set(first))]
    columns = []
    for name in ordered:
        suffix = next((suffix for suffix in ERROR_SUFFIXES if name.endswith(suffix)), "")
        metric = name.removesuffix(suffix)
        spec = METRICS.get(metric)
        title, unit = (spec.title, spec.unit) if spec else (metric.replace("_", " "), "")
        if suffix:
            columns.append(ReportColumn(name, f"{title}, {ERROR_SUFFIXES[suffix]}", unit, detail=True))
        else:
            digits = max(spec.digits, 2) if spec else None
            columns.append(ReportColumn(name, title, unit, better_direction(name), digits))
    return columns + [cost for cost in COSTS if any(_value(row, cost) is not None for row in rows)]


def list_keys(rows: Iterable[ResultRow]) -> list[dict[str, Any]]:
    """Every key that points set, with its distinct values (None: a point does not set it); the seed if it varies."""
    rows = list(rows)
    names = [*dict.fromkeys(key for row in rows for key in row["set"])]
    if len({row.get("seed") for row in rows}) > 1:
        names.append("seed")
    keys = []
    for name in names:
        values = [_setting(row, name) for row in rows]
        number = all(value is None or is_number(value) for value in values)
        distinct = {json.dumps(value, sort_keys=True): value for value in values}.values()
        ordered = sorted(distinct, key=lambda value: (value is None, value if number else str(value)))
        keys.append({"name": name, "number": number, "values": ordered})
    return keys


def embed_pictures(folder: Path, rows: Iterable[ResultRow]) -> tuple[list[dict[str, str]], dict[str, list[int]]]:
    """Pictures of runs as scaled-down data URIs, up to a limited number of points and bytes.

    Returns:
        All pictures, and spec hash -> indices of the pictures of that run.
    """
    pictures: list[dict[str, str]] = []
    pictures_of: dict[str, list[int]] = {}
    size = 0
    for row in rows:
        run = folder / (row.get("folder") or "")
        if not row.get("folder") or not run.resolve().is_relative_to(folder.resolve()):
            continue
        for name in PICTURES:
            source = _data_uri(run / "samples" / f"{name}.png")
            if source and size + len(source) <= MAX_PICTURE_BYTES:
                size += len(source)
                pictures_of.setdefault(row["spec_hash"], []).append(len(pictures))
                pictures.append({"title": name.capitalize(), "source": source})
        if len(pictures_of) == MAX_PICTURED_POINTS or size > MAX_PICTURE_BYTES * 0.98:
            break
    return pictures, pictures_of


def compare_series(series: dict[str, list[Mean]]) -> list[dict[str, Any]]:
    """BD-rate and BD-PSNR of every series against the first one that is a curve, or the reason why there are none."""
    curves = {name: points for name, means in series.items() if len(points := curve(means)) > 1}
    names = list(curves)[:MAX_COMPARED_SERIES]
    comparisons = []
    for name in names[1:]:
        entry: dict[str, Any] = {"series": name, "anchor": names[0], "rate": None, "psnr": None, "why": ""}
        try:
            entry["rate"] = bd_rate(curves[names[0]], curves[name])
            entry["psnr"] = bd_psnr(curves[names[0]], curves[name])
        except ValueError as error:
            entry["why"] = str(error)
        comparisons.append(entry)
    return comparisons


def _picture_order(rows: Sequence[ResultRow]) -> Iterator[ResultRow]:
    """Rows in the order in which their pictures are embedded: the Pareto front, then the others, evenly thinned out."""
    front = pareto(rows)
    yield from front[:: max(1, len(front) // MAX_PICTURED_POINTS)]
    seen = {row["spec_hash"] for row in front}
    rest = [row for row in rows if row["spec_hash"] not in seen]
    yield from rest[:: max(1, len(rest) // MAX_PICTURED_POINTS)]


def _data_uri(path: Path) -> str | None:
    """A picture as WebP in a data URI; None if the file is missing or damaged."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        return None
    try:
        with Image.open(path) as picture:
            image = picture.convert("RGB")
    except (OSError, UnidentifiedImageError):
        warnings.warn(f"{path}: not a picture; it is not in the page", stacklevel=2)
        return None
    if image.width > PICTURE_WIDTH:
        height = max(1, round(image.height * PICTURE_WIDTH / image.width))
        image = image.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _value(row: ResultRow, column: ReportColumn) -> float | None:
    """The value of a row in a column, with six significant digits, or None."""
    if not column.cost:
        return _number(row["figures"], column.name)
    if column.name == "seconds":
        return _number(row, "seconds")
    parts = row.get(column.name) or {}
    if column.name == "gflops":
        return _number(parts, "base")
    return sum(parts.values()) if parts else None


def _number(numbers: ResultRow, name: str) -> float | None:
    value = numbers.get(name)
    return float(f"{value:.6g}") if is_number(value) else None


def _setting(row: ResultRow, key: str) -> Any:
    return row.get("seed") if key == "seed" else row["set"].get(key)


def _series(row: ResultRow) -> str:
    return row.get("series") or row.get("spec") or ""


def _enumerate(values: Iterable[str]) -> dict[str, int]:
    """Distinct value -> index."""
    return {value: i for i, value in enumerate(dict.fromkeys(values))}


def _tiles(
    done: Sequence[ResultRow], runs: Sequence[ResultRow], failed: Sequence[ResultRow], series: int
) -> list[dict[str, Any]]:
    """The key numbers at the top of the page. Of a run with a curve, `done` has several rows."""
    points = len({(_series(row), row["point"], row["training"]) for row in done})
    tiles: list[dict[str, Any]] = [
        {"name": name, "value": f"{count:,}"}
        for name, count in (("points", points), ("runs", len(runs)), ("series", series))
    ]
    for name, unit, digits in (("bits_per_pixel", "bits/pixel", 3), ("psnr_db", "dB PSNR", 2)):
        values = [value for row in done if (value := _number(row["figures"], name)) is not None]
        if values:
            tiles.append({"name": unit, "value": f"{min(values):.{digits}f} – {max(values):.{digits}f}"})
    minutes = sum(_number(row, "seconds") or 0 for row in runs) / 60
    if minutes:
        time, unit = (minutes / 60, "hours") if minutes >= 60 else (minutes, "minutes")
        tiles.append({"name": f"{unit} of work", "value": f"{time:,.1f}"})
    for status, name, bad in (("failed", "failed", True), ("stopped", "stopped early", False)):
        if count := sum(row["status"] == status for row in failed):
            tiles.append({"name": name, "value": f"{count:,}", "bad": bad})
    return tiles


def _notices(damaged: list[int], protocols: int, pictured: int, rows: int) -> list[str]:
    notices = []
    if damaged:
        lines = ", ".join(map(str, damaged[:5])) + (" …" if len(damaged) > 5 else "")
        notices.append(f"{len(damaged)} damaged line(s) of results.jsonl were skipped: {lines}.")
    if protocols > 1:
        notices.append(f"The rows were measured by {protocols} protocols (below), whose metrics are not comparable.")
    if 0 < pictured < rows:
        notices.append(f"{pictured} of {rows:,} runs have their pictures in this page, the Pareto front first.")
    return notices


def _flatten(content: ResultRow, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as (dotted name, value)."""
    entries: list[tuple[str, Any]] = []
    for key, value in content.items():
        entries += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return entries


def _footer(rows: Sequence[ResultRow]) -> str:
    """The versions that the rows were written by, and the date of the last one."""
    distinct = {tuple(sorted((row.get("versions") or {}).items())) for row in rows}
    versions = "; ".join(sorted(", ".join(f"{name} {value}" for name, value in each) for each in distinct if each))
    finished = max((row.get("finished") or "" for row in rows), default="")
    return ". ".join(filter(None, [versions, f"Last row of {finished}" if finished else ""]))
