"""Validation of plain data by a pydantic model, with its errors rephrased for the author of the YAML file."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ulzoo.registry.spec.component_table import Choice
from ulzoo.registry.spec.yaml_source import KeyPath, Node, SpecError, located
from ulzoo.runtime.messages import suggest

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], data: Any, source: Node | None) -> Model:
    """Validate `data` as a `model`.

    Args:
        source: the YAML that `data` was read from, for file and line in errors; None for data without a file.

    Raises:
        SpecError: the first error and its location.
    """
    try:
        value = model.model_validate(data)
    except ValidationError as error:
        raise _explain(model, error, data, source) from None
    for path, message in _reinterpreted(data, value, ()):
        raise located(source, path, message)
    return value


def _reinterpreted(raw: Any, value: Any, path: KeyPath) -> Iterable[tuple[KeyPath, str]]:
    """Values that pydantic converted between text, numbers and booleans, which is never intended in a spec."""
    if isinstance(value, BaseModel) and isinstance(raw, Mapping):
        for key in raw:
            yield from _reinterpreted(raw[key], getattr(value, key), (*path, key))
    elif isinstance(value, Mapping) and isinstance(raw, Mapping):
        for key in raw:
            yield from _reinterpreted(raw[key], value[key], (*path, key))
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


def _explain(model: type[BaseModel], error: ValidationError, data: Any, source: Node | None) -> SpecError:
    """The first problem as an error with its location, and the number of further problems.

    Unknown keys come first and missing keys last, because a misspelt key causes both.
    """
    problems: dict[KeyPath, tuple[int, str]] = {}
    expected: dict[KeyPath, list[str]] = {}
    misspelt: set[KeyPath] = set()
    for item in error.errors(include_url=False):
        path, value, kind = _key_path(item["loc"], data), item["input"], item["type"]
        context = item.get("ctx", {})
        if kind == "extra_forbidden":
            hint = suggest(path[-1], _keys_at(model, path[:-1], data))
            misspelt |= {(*path[:-1], name) for name in re.findall(r"did you mean '(\w+)'", hint)}
            problems[path] = (0, f"unknown key{hint}")
        elif kind == "missing" and isinstance(item["loc"][-1], str):
            problems[*path, item["loc"][-1]] = (2, f"missing key {item['loc'][-1]!r}")
        elif kind == "missing":  # an item of a list of fixed length
            problems[path] = (1, f"expected at least {int(item['loc'][-1]) + 1} values, got {len(_at(path, data))}")
        elif kind == "literal_error":
            options = re.findall(r"'([^']*)'", context["expected"])
            alternatives = _alternatives(expected, path, context["expected"])
            problems[path] = (1, f"expected {alternatives}, got {_got(value)}{_close(value, options)}")
        elif kind in _BOUNDS:
            length = context.get("actual_length")
            got = _got(value) if length is None else length
            problems[path] = (1, f"{_BOUNDS[kind].format(**context)}, got {got}")
        elif type_name := _EXPECTED.get(kind, _EXPECTED.get(kind.split("_")[0])):
            problems[path] = (1, f"expected {_alternatives(expected, path, type_name)}, got {_got(value)}")
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


def _alternatives(expected: dict[KeyPath, list[str]], path: KeyPath, one: str) -> str:
    """What may stand at a path, with one more member of its union."""
    expected.setdefault(path, []).append(one)
    return " or ".join(dict.fromkeys(expected[path]))


def _key_path(loc: tuple[str | int, ...], data: Any) -> KeyPath:
    """The elements of pydantic's `loc` that are keys of the data; the others are names of union branches."""
    path: list[str | int] = []
    for key in loc:
        keys = range(len(data)) if isinstance(data, list | tuple) else data if isinstance(data, Mapping) else ()
        if key in keys:
            data = data[key]
            path.append(key)
    return tuple(path)


def _at(path: KeyPath, data: Any) -> Any:
    for key in path:
        data = data[key]
    return data


def _keys_at(model: Any, path: KeyPath, data: Any) -> list[str]:
    """The keys that `model` allows in the mapping at `path`."""
    for key in path:
        data = data[key]
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields[str(key)]
            model = _model_for(field.annotation, field.metadata, data)
        else:  # a mapping or list of models
            model = _model_for(get_args(model)[-1], (), data)
    return list(model.model_fields)


def _model_for(annotation: Any, metadata: Iterable[Any], data: Mapping[str, Any]) -> Any:
    """The model that validates `data`: the component or the member of a union that its `kind` names."""
    if choice := next((item for item in metadata if isinstance(item, Choice)), None):
        return choice.table.config(choice.kind_of(data))
    if get_origin(annotation) is Annotated:
        return _model_for(annotation.__origin__, annotation.__metadata__, data)
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    members = [_model_for(member, (), data) for member in get_args(annotation) if member is not NoneType]
    kinds = {kind: member for member in members[1:] for kind in get_args(member.model_fields["kind"].annotation)}
    kind = data.get("kind")
    return kinds.get(kind, members[0]) if isinstance(kind, str) else members[0]


def _close(value: Any, options: list[str]) -> str:
    close = get_close_matches(str(value), options, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _got(value: Any) -> str:
    """The value as YAML writes it, abbreviated."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
