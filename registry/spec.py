"""Loading a spec: name or file -> `extends` merged -> overrides -> checked; every error one line that says where."""

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ulzoo.registry.schema import Spec
from ulzoo.registry.table import Choice, suggest
from ulzoo.registry.yaml_source import KeyPath, Node, SpecError, located, merge, parse_override, read_yaml

__all__ = ["SpecError", "find_specs", "load_spec", "located", "spec_from_dict"]


def find_specs() -> dict[str, Path]:
    """The packaged specs, name -> file."""
    folder = Path(str(files("ulzoo.specs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_spec(name_or_path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Spec:
    """The spec of a packaged name or a file (`x.yaml`, or anything with a slash), with `a.b=c` overrides applied.

    Raises:
        SpecError: whatever is wrong, in one line.
    """
    source = _read(name_or_path)
    overlay = [parse_override(text) for text in overrides]
    for node in overlay[1:]:
        overlay[0] = merge(overlay[0], node)  # first among themselves, so that their order does not matter
    if overlay:
        source = merge(source, overlay[0])
    return _validated(source.plain(), source)


def spec_from_dict(data: Mapping[str, Any]) -> Spec:
    """The spec of plain data, as `Spec.to_dict` gives it; its errors name key paths only."""
    return _validated(data, None)


# ------------------------------------------------------------------------------------------------ names and extends


def _read(name_or_path: str | os.PathLike[str]) -> Node:
    text = os.fspath(name_or_path)
    if not _is_path(text) and not isinstance(name_or_path, os.PathLike):
        return _extended(*_packaged(text), chain=())
    path = Path(text)
    if not os.path.exists(path):
        raise SpecError(f"{text}: no such file{_nearby(path)}")
    return _extended(path, text, chain=())


def _is_path(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text


def _packaged(name: str) -> tuple[Path, str]:
    """File and shown name of a packaged spec."""
    specs = find_specs()
    if name not in specs:
        raise SpecError(f"there is no spec named {name!r}{suggest(name, specs)}")
    return specs[name], _shown(specs[name])


def _nearby(path: Path) -> str:
    """What a missing file may have been meant to be: a packaged spec, or a file beside it."""
    specs = find_specs()
    if path.stem in specs:
        return f"; the spec {path.stem!r} is packaged: give its name alone"
    folder = path.parent
    names = {entry.stem: entry.name for entry in sorted(folder.glob("*.y*ml"))} if os.path.isdir(folder) else {}
    if close := get_close_matches(path.stem, names, n=1):
        return f"; did you mean {str(folder / names[close[0]])!r}?"
    if close := get_close_matches(path.stem, specs, n=1):
        return f"; did you mean the packaged spec {close[0]!r}?"
    return ""


def _shown(path: Path) -> str:
    """The path as a person would type it: relative to the working directory where it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _extended(path: Path, shown: str, chain: tuple[tuple[Path, str], ...]) -> Node:
    """The file's mapping over that of the spec it extends, and so on up; `chain` is who extends whom so far."""
    node = read_yaml(path, shown)
    chain = (*chain, (path.resolve(), shown))
    assert isinstance(node.value, dict)
    if "extends" not in node.value:
        return node
    link = node.value["extends"]
    own = Node({key: value for key, value in node.value.items() if key != "extends"}, node.where)

    def refuse(message: str) -> SpecError:
        names = " -> ".join(name for _, name in chain) if len(chain) > 1 else ""
        return located(node, ("extends",), message + (f" ({names})" if names else ""))

    if not isinstance(link.value, str):
        raise refuse("expected the name or path of one spec")
    target = link.value
    if _is_path(target):
        parent, parent_shown = path.parent / target, os.path.normpath(os.path.join(os.path.dirname(shown), target))
        if not os.path.exists(parent):
            raise refuse(f"no such file {parent_shown!r}{_nearby(Path(parent_shown))}")
    else:
        try:
            parent, parent_shown = _packaged(target)
        except SpecError as error:
            raise refuse(str(error)) from None
    if parent.resolve() in [seen for seen, _ in chain]:
        circle = " -> ".join([*(name for _, name in chain), parent_shown])
        raise located(node, ("extends",), f"circular: {circle}")
    return merge(_extended(parent, parent_shown, chain), own)


# --------------------------------------------------------------------------------------------- checks and their words


def _validated(data: Any, source: Node | None) -> Spec:
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        raise _explain(error, data, source) from None
    for path, message in _reinterpreted(data, spec, ()):
        raise located(source, path, message)
    spec._source = source
    return spec


def _reinterpreted(raw: Any, value: Any, path: KeyPath) -> Iterable[tuple[KeyPath, str]]:
    """Places where pydantic made a number of a word or a truth value, or the reverse, which nobody means."""
    if isinstance(value, BaseModel) and isinstance(raw, Mapping):
        for key in raw:
            yield from _reinterpreted(raw[key], getattr(value, key), (*path, key))
    elif isinstance(value, tuple | list) and isinstance(raw, tuple | list):
        for index, pair in enumerate(zip(raw, value, strict=True)):
            yield from _reinterpreted(*pair, (*path, index))
    elif type(value) in (int, float) and isinstance(raw, str | bool):
        yield path, f"expected {'an integer' if type(value) is int else 'a number'}, got {_got(raw)}"
    elif type(value) is bool and not isinstance(raw, str | bool):
        yield path, f"expected true or false, got {_got(raw)}"


_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "none": "null",
}
_BOUNDS = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "expected at least {min_length} values",
    "too_long": "expected at most {max_length} values",
}


def _explain(error: ValidationError, data: Any, source: Node | None) -> SpecError:
    """The first problem as an error with its place, in words, and the number of the others.

    Unknown keys come first and missing ones last: a misspelt key is both.
    """
    problems: dict[KeyPath, tuple[int, str]] = {}
    expected: dict[KeyPath, list[str]] = {}
    misspelt: set[KeyPath] = set()
    for item in error.errors(include_url=False):
        path, value, kind = _key_path(item["loc"], data), item["input"], item["type"]
        context = item.get("ctx", {})
        if kind == "extra_forbidden":
            hint = suggest(path[-1], _keys_at(path[:-1], data))
            misspelt |= {(*path[:-1], name) for name in re.findall(r"did you mean '(\w+)'", hint)}
            problems[path] = (0, f"unknown key{hint}")
        elif kind == "missing" and isinstance(item["loc"][-1], str):
            problems[*path, item["loc"][-1]] = (2, f"missing key {item['loc'][-1]!r}")
        elif kind == "missing":  # an item of a list of fixed length
            problems[path] = (1, f"expected at least {int(item['loc'][-1]) + 1} values, got {len(_at(path, data))}")
        elif kind == "literal_error":
            options = re.findall(r"'([^']*)'", context["expected"])
            problems[path] = (1, f"expected {context['expected']}, got {_got(value)}{_close(value, options)}")
        elif kind in _BOUNDS:
            got = context.get("actual_length") or _got(value)
            problems[path] = (1, f"{_BOUNDS[kind].format(**context)}, got {got}")
        elif words := _EXPECTED.get(kind, _EXPECTED.get(kind.split("_")[0])):
            expected.setdefault(path, []).append(words)
            either = " or ".join(dict.fromkeys(expected[path]))
            problems[path] = (1, f"expected {either}, got {_got(value)}")
        else:
            problems[path] = (1, str(context["error"]) if kind == "value_error" else item["msg"])
    deepest = [
        (rank, path, message)
        for path, (rank, message) in problems.items()
        if not (rank == 2 and path in misspelt)
        and not any(other != path and other[: len(path)] == path for other in problems)
    ]
    rank, path, message = min(deepest, key=lambda problem: problem[0])
    more = f" (and {len(deepest) - 1} more)" if len(deepest) > 1 else ""
    return located(source, path[:-1] if rank == 2 else path, message + more)


def _key_path(loc: tuple[str | int, ...], data: Any) -> KeyPath:
    """The part of pydantic's `loc` that is in the data; the rest are names of union branches."""
    path: list[str | int] = []
    for key in loc:
        known = range(len(data)) if isinstance(data, list | tuple) else data if isinstance(data, Mapping) else ()
        if key in known:
            data = data[key]
            path.append(key)
    return tuple(path)


def _at(path: KeyPath, data: Any) -> Any:
    for key in path:
        data = data[key]
    return data


def _keys_at(path: KeyPath, data: Any) -> list[str]:
    """The keys that the schema knows in the mapping at `path`."""
    model: Any = Spec
    for key in path:
        data = data[key]
        field = model.model_fields[key]
        choice = next((mark for mark in field.metadata if isinstance(mark, Choice)), None)
        model = choice.table.config(choice.kind_of(data)) if choice else field.annotation
    return list(model.model_fields)


def _close(value: Any, options: list[str]) -> str:
    close = get_close_matches(str(value), options, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _got(value: Any) -> str:
    """The value as YAML would write it, short."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
