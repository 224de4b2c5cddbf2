"""A sweep as one page for a browser: plot, filters, table and pictures in a single file that needs no network.

The page's parts are `report_page/`: HTML, style and scripts without a library, put together here with the rows as JSON.
Whatever a row says attention_patterns the page as text, never as HTML, and the page may load nothing (a Content-Security-Policy).
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
from ulzoo.registry.report.plots import better
from ulzoo.registry.spec.sweep import METRICS
from ulzoo.registry.sweeps.store import Store

PICTURED_POINTS = 60
PICTURED_BYTES = 8 * 2**20
PICTURE_WIDTH = 1200
PICTURES = ("reconstructions", "samples")
COMPARED_SERIES = 20
ERRORS = {"_mc_se": "error of the noise", "_se": "standard error"}  # endings of figures
SCRIPTS = ("chart.js", "table.js", "page.js")


@dataclass(frozen=True)
class ReportColumn:
    """A number of every row.

    Attributes:
        name, title, unit: what it is, its heading, and in what.
        better: "lower", "higher" or "".
        digits: after the point; None for as many as it takes.
        cost: not a figure, but what it took.
        detail: shown of a single point only, as standard errors are.
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
    """Write the page of a store, atomically.

    Args:
        path: the file; report.html in the store's folder if left out.

    Returns:
        The file.
    """
    path = path or store.folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(describe(store)))
    return path


def render(data: dict[str, Any]) -> str:
    """The page with these data (see `describe`)."""
    page = files("ulzoo.registry.report") / "assets"
    parts = {
        "title": html.escape(data["title"]),
        "style": page.joinpath("page.css").read_text("utf-8"),
        "script": "\n".join(page.joinpath(name).read_text("utf-8").replace('"use strict";\n', "") for name in SCRIPTS),
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"@@(\w+)@@", lambda match: parts[match[1]], page.joinpath("page.html").read_text("utf-8"))


def describe(store: Store) -> dict[str, Any]:
    """What the page shows of a store, as plain data."""
    rows, damaged, sweep = store.rows(), store.damaged, store.sweep
    done = [row for row in rows if row["status"] == "done"]
    failed = [row for row in rows if row["status"] != "done"]
    columns = columns_of(done, sweep.columns if sweep else ())
    keys = keys_of(done)
    series, specs = _numbered(_series(row) for row in done), _numbered(row.get("spec", "") for row in done)
    protocols = _numbered(json.dumps(row.get("protocol") or {}, sort_keys=True) for row in done)
    pictures, pictured = embedded_pictures(store.folder, _worth_seeing(done))
    entries = []
    for row in done:
        paper = [_figure(row.get("paper") or {}, column.name) for column in columns]
        entry = {
            "point": row["point"],
            "series": series[_series(row)],
            "spec": specs[row.get("spec", "")],
            "seed": row.get("seed"),
            "settings": [_setting(row, key["name"]) for key in keys],
            "values": [_value(row, column) for column in columns],
            "hash": row["spec_hash"][:16],
            "folder": row.get("folder") or "",
            "pictures": pictured.get(row["spec_hash"], []),
        }
        entries.append(entry | ({"paper": paper} if any(value is not None for value in paper) else {}))
    of_protocol = [row.get("protocol") or {} for row in done]
    return {
        "title": sweep.name if sweep else store.folder.resolve().name,
        "description": sweep.description if sweep else "",
        "source": sweep.source if sweep else "",
        "expect": sweep.expect if sweep else "",
        "tiles": _tiles(done, failed, len(series)),
        "notices": _notices(damaged, len(protocols), len(pictured), len(done)),
        "columns": [asdict(column) for column in columns],
        "keys": keys,
        "series": list(series),
        "specs": list(specs),
        "rows": entries,
        "pictures": pictures,
        "compared": compared(average(done)),
        "failed": [
            {"error": row.get("error") or "", "series": _series(row)}
            | {key: row.get(key) for key in ("point", "seed", "status")}
            for row in failed
        ],
        "protocols": [
            {"rows": sum(found == known for found in of_protocol), "entries": _flat(known)}
            for known in map(json.loads, protocols)
            if known
        ],
        "footer": _footer(rows),
    }


def columns_of(rows: Iterable[ResultRow], first: Iterable[str] = ()) -> list[ReportColumn]:
    """The figures that any row has, those named in `first` before the others, then the costs."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name, value in row["figures"].items() if is_number(value))
    ordered = [*(name for name in first if name in names), *(name for name in names if name not in set(first))]
    found = []
    for name in ordered:
        of, words = next(
            ((name.removesuffix(end), words) for end, words in ERRORS.items() if name.endswith(end)), (name, "")
        )
        known = METRICS.get(of)
        title, unit = (known.title, known.unit) if known else (of.replace("_", " "), "")
        if words:
            found.append(ReportColumn(name, f"{title}, {words}", unit, detail=True))
        else:
            found.append(ReportColumn(name, title, unit, better(name), max(known.digits, 2) if known else None))
    return found + [cost for cost in COSTS if any(_value(row, cost) is not None for row in rows)]


def keys_of(rows: Iterable[ResultRow]) -> list[dict[str, Any]]:
    """What points set, with every value there is (None: some leave it alone), and the seed if there are several."""
    rows = list(rows)
    names = [*dict.fromkeys(key for row in rows for key in row["set"])]
    if len({row.get("seed") for row in rows}) > 1:
        names.append("seed")
    found = []
    for name in names:
        values = [_setting(row, name) for row in rows]
        number = all(value is None or is_number(value) for value in values)
        distinct = {json.dumps(value, sort_keys=True): value for value in values}.values()
        ordered = sorted(distinct, key=lambda value: (value is None, value if number else str(value)))
        found.append({"name": name, "number": number, "values": ordered})
    return found


def embedded_pictures(folder: Path, rows: Iterable[ResultRow]) -> tuple[list[dict[str, str]], dict[str, list[int]]]:
    """Pictures of runs as data URIs, scaled down, up to a number of points and bytes.

    Returns:
        Every picture, and spec hash -> the numbers of its own.
    """
    pictures: list[dict[str, str]] = []
    pictured: dict[str, list[int]] = {}
    size = 0
    for row in rows:
        run = folder / (row.get("folder") or "")
        if not row.get("folder") or not run.resolve().is_relative_to(folder.resolve()):
            continue
        for name in PICTURES:
            source = _data_uri(run / "samples" / f"{name}.png")
            if source and size + len(source) <= PICTURED_BYTES:
                size += len(source)
                pictured.setdefault(row["spec_hash"], []).append(len(pictures))
                pictures.append({"title": name.capitalize(), "source": source})
        if len(pictured) == PICTURED_POINTS or size > PICTURED_BYTES * 0.98:
            break
    return pictures, pictured


def compared(series: dict[str, list[Mean]]) -> list[dict[str, Any]]:
    """BD-rate and BD-PSNR of every series against the first that is a curve; why not, where there is none."""
    curves = {name: points for name, means in series.items() if len(points := curve(means)) > 1}
    names = list(curves)[:COMPARED_SERIES]
    found = []
    for name in names[1:]:
        entry: dict[str, Any] = {"series": name, "anchor": names[0], "rate": None, "psnr": None, "why": ""}
        try:
            entry["rate"] = bd_rate(curves[names[0]], curves[name])
            entry["psnr"] = bd_psnr(curves[names[0]], curves[name])
        except ValueError as error:
            entry["why"] = str(error)
        found.append(entry)
    return found


def _worth_seeing(rows: Sequence[ResultRow]) -> Iterator[ResultRow]:
    """The Pareto front's rows, then the others, spread evenly."""
    front = pareto(rows)
    yield from front[:: max(1, len(front) // PICTURED_POINTS)]
    seen = {row["spec_hash"] for row in front}
    rest = [row for row in rows if row["spec_hash"] not in seen]
    yield from rest[:: max(1, len(rest) // PICTURED_POINTS)]


def _data_uri(path: Path) -> str | None:
    """A picture as WebP in a URI; None if there is none."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        return None
    try:
        with Image.open(path) as picture:
            image = picture.convert("RGB")
    except (OSError, UnidentifiedImageError):
        warnings.warn(f"{path}: not a picture; the page goes without", stacklevel=2)
        return None
    if image.width > PICTURE_WIDTH:
        height = max(1, round(image.height * PICTURE_WIDTH / image.width))
        image = image.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _value(row: ResultRow, column: ReportColumn) -> float | None:
    """A number of a row, in six digits, or None."""
    if not column.cost:
        return _figure(row["figures"], column.name)
    if column.name == "seconds":
        return _figure(row, "seconds")
    parts = row.get(column.name) or {}
    if column.name == "gflops":
        return _figure(parts, "base")
    return sum(parts.values()) if parts else None


def _figure(figures: ResultRow, name: str) -> float | None:
    value = figures.get(name)
    return float(f"{value:.6g}") if is_number(value) else None


def _setting(row: ResultRow, key: str) -> Any:
    return row.get("seed") if key == "seed" else row["set"].get(key)


def _series(row: ResultRow) -> str:
    return row.get("series") or row.get("spec") or ""


def _numbered(values: Iterable[str]) -> dict[str, int]:
    """Every value once, with its number."""
    return {value: i for i, value in enumerate(dict.fromkeys(values))}


def _tiles(done: Sequence[ResultRow], failed: Sequence[ResultRow], series: int) -> list[dict[str, Any]]:
    """A few numbers for the top of the page."""
    found: list[dict[str, Any]] = [
        {"name": "points", "value": f"{len({(_series(row), row['point']) for row in done}):,}"}
    ]
    found += [{"name": "runs", "value": f"{len(done):,}"}, {"name": "series", "value": f"{series:,}"}]
    for name, word, digits in (("bits_per_pixel", "bits/pixel", 3), ("psnr_db", "dB PSNR", 2)):
        values = [value for row in done if (value := _figure(row["figures"], name)) is not None]
        if values:
            found.append({"name": word, "value": f"{min(values):.{digits}f} – {max(values):.{digits}f}"})
    minutes = sum(_figure(row, "seconds") or 0 for row in done) / 60
    if minutes:
        hours = minutes >= 60
        found.append(
            {
                "name": f"{'hours' if hours else 'minutes'} of work",
                "value": f"{minutes / 60 if hours else minutes:,.1f}",
            }
        )
    for status, name, bad in (("failed", "failed", True), ("stopped", "stopped early", False)):
        if count := sum(row["status"] == status for row in failed):
            found.append({"name": name, "value": f"{count:,}", "bad": bad})
    return found


def _notices(damaged: list[int], protocols: int, pictured: int, rows: int) -> list[str]:
    found = []
    if damaged:
        lines = ", ".join(map(str, damaged[:5])) + (" …" if len(damaged) > 5 else "")
        found.append(f"{len(damaged)} damaged line(s) of results.jsonl were set aside: {lines}.")
    if protocols > 1:
        found.append(f"The rows were measured by {protocols} protocols (below), whose figures do not compare.")
    if 0 < pictured < rows:
        found.append(f"{pictured} of {rows:,} runs have their pictures in this page, those of the Pareto front first.")
    return found


def _flat(content: ResultRow, before: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as (dotted name, value)."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        found += _flat(value, f"{before}{key}.") if isinstance(value, dict) else [(f"{before}{key}", value)]
    return found


def _footer(rows: Sequence[ResultRow]) -> str:
    made = [dict(pair) for pair in {tuple(sorted((row.get("versions") or {}).items())) for row in rows}]
    versions = "; ".join(sorted(", ".join(f"{name} {value}" for name, value in each.items()) for each in made if each))
    finished = max((row.get("finished") or "" for row in rows), default="")
    return ". ".join(filter(None, [versions, f"Last row of {finished}" if finished else ""]))
