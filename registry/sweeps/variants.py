"""Rows whose specs differ in their seeds alone, and series that keep every other difference apart.

A row contains its resolved spec; for rows of earlier versions it is read from the run directory. Two rows are seeds of
one training if their specs are equal but for the seeds of the stages. Rows of one series whose specs differ in more
than that and what the points set, such as a `--set` of another command or an edited base spec, become two series. So do
rows that were measured on different images, since those of the data section were replaced in between.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ulzoo.registry.spec.loading import SPECS, spec_from_source
from ulzoo.registry.spec.schema import flatten, without_nulls
from ulzoo.registry.spec.sweep import point_word
from ulzoo.registry.spec.yaml_source import SpecError, parse_override

NAMED_DIFFERENCES = 3
_SEED = re.compile(r"train\.\w+\.seed")
_IGNORED = ("name", "description")
Row = Mapping[str, Any]


def separate_variants(rows: Iterable[Row], folder: Path | None = None) -> list[dict[str, Any]]:
    """Copies of the rows in which every series is one curve and every training has an identity.

    Args:
        rows: of a store.
        folder: the sweep's folder, in whose run directories the specs of rows of earlier versions are looked up.

    Returns:
        The rows with `training`, which is equal for rows that differ in their seeds alone; `resolved`, if it could be
        read; and `series`, to which the settings are added that distinguish the variants of a series.
    """
    copies = [dict(row) for row in rows]
    if all("training" in row for row in copies):
        return copies
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in copies:
        row["series"] = row.get("series") or row.get("spec") or ""
        groups.setdefault((row["series"], row.get("spec") or ""), []).append(row)
    for group in groups.values():
        old = [row for row in group if not row.get("resolved")]
        for row in old:
            row["resolved"] = _read_spec(row, folder)
        _separate(group, set() if all(row["resolved"] for row in old) else set(map(id, old)))
    return copies


def settings_to_add(base: str, settings: Mapping[str, Any], key: str, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What must be set besides `settings` so that a base spec becomes a measured spec, but for `key` and seeds.

    Args:
        base: name or path of the base spec.
        settings: key path -> value.
        resolved: the measured spec, as plain data.

    Returns:
        Key path -> value; empty if the base spec can no longer be loaded.
    """
    overlay = [parse_override(f"{name}={json.dumps(value)}") for name, value in settings.items()]
    try:
        planned = flatten(spec_from_source(SPECS.read(base), overlay).to_dict())
    except (SpecError, OSError):
        return {}
    missing: dict[str, Any] = {}
    for name, value in flatten(resolved).items():
        removed = value is None and any(other.startswith(f"{name}.") for other in planned)
        differs = removed if value is None and name not in planned else planned.get(name, missing) != value
        if differs and name not in _IGNORED and not _SEED.fullmatch(name) and not _covers(key, name):
            missing[name] = value
    return missing


def all_but(training: str, key: str) -> str:
    """An identity of a training that is equal for those that differ in one key only."""
    content = json.loads(training)
    return _canonical(
        {
            name: value
            for name, value in content.items()
            if not _covers(key, name) and not (name == "training_images" and key.startswith("train."))
        }
    )


def _read_spec(row: Row, folder: Path | None) -> Any:
    """The resolved spec in the run directory of a row; None if it cannot be read."""
    if folder is None or not re.fullmatch(r"points/[\w-][\w.-]*", str(row.get("folder"))):
        return None
    try:
        content = yaml.safe_load((folder / row["folder"] / "spec.yaml").read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def _separate(group: list[dict[str, Any]], unknown: set[int]) -> None:
    """Set `training` and `series` of the rows of one series.

    Args:
        group: the rows.
        unknown: `id` of those whose specs cannot be compared.
    """
    varied = {key for row in group for key in row["set"]}
    repeats = Counter[str]()
    contexts: dict[str, dict[str, Any]] = {}
    context_of = []
    images_of = _measured_images(group)
    for row in group:
        if id(row) not in unknown:
            spec = flatten(without_nulls(row["resolved"]))
            spec = {key: value for key, value in spec.items() if key not in _IGNORED and not _SEED.fullmatch(key)}
            own = row.get("overrides") or {}
            free = [key for key in varied if key not in own]
            context = {key: value for key, value in spec.items() if not any(_covers(name, key) for name in free)}
        else:  # two rows with the same seed are certainly not seeds of one training
            images = row.get("training_images") or {}
            attempt = _canonical([row["point"], row.get("seed"), images])
            repeats[attempt] += 1
            spec = {"training_images": images, "repeat": repeats[attempt]}
            trained = any(_covers(name, "train") or name.startswith("train.") for name in varied)
            context = {key: value for key, value in spec.items() if key != "training_images" or not trained}
        if id(row) in images_of:
            spec["images"] = context["images"] = images_of[id(row)]
        row["training"] = _canonical(spec)
        context_of.append(_canonical(context))
        contexts.setdefault(context_of[-1], context)
    if len(contexts) > 1:
        labels = dict(zip(contexts, _labels(list(contexts.values())), strict=True))
        for row, context_key in zip(group, context_of, strict=True):
            row["series"] = f"{row['series']} {labels[context_key]}".strip()


def _measured_images(group: list[dict[str, Any]]) -> dict[int, str]:
    """`id` of a row -> the images it was measured on, if rows of the same data section were measured on different ones.

    They are named by a hash of the fingerprint in the protocol; those of rows of earlier versions are "unknown".
    """
    by_data: dict[str, dict[int, str]] = {}
    for row in group:
        identity = (row.get("protocol") or {}).get("fingerprint")
        name = hashlib.sha256(_canonical(identity).encode()).hexdigest()[:6] if identity else "unknown"
        if row["status"] == "done":
            by_data.setdefault(_canonical((row.get("resolved") or {}).get("data")), {})[id(row)] = name
    return {key: name for rows in by_data.values() if len(set(rows.values())) > 1 for key, name in rows.items()}


def _labels(contexts: list[dict[str, Any]]) -> list[str]:
    """A distinct label for each context: the settings that differ between them."""
    keys = dict.fromkeys(key for context in contexts for key in context)
    differing = [key for key in keys if len({_canonical(context.get(key)) for context in contexts}) > 1]
    ends = Counter(key.rpartition(".")[2] for key in differing)
    names = {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in differing}
    labels: list[str] = []
    for context in contexts:
        words = [f"{names[key]}={point_word(context[key], key)}" for key in differing if key in context]
        more = [f"and {len(words) - NAMED_DIFFERENCES} more"] if len(words) > NAMED_DIFFERENCES else []
        label = " ".join([*words[:NAMED_DIFFERENCES], *more])
        labels.append(label if label not in labels else f"{label} #{len(labels) + 1}".strip())
    return labels


def _covers(setting: str, key: str) -> bool:
    """Whether a setting determines a key: another `kind` replaces the mapping that it is in."""
    setting = setting.removesuffix(".kind")
    return key == setting or key.startswith(f"{setting}.")


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, default=str)
