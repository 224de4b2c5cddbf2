"""Tables of components: a component's keyword-only constructor is its schema.

A table maps the `kind` written in a spec to a class, usually by its import string, so that nothing is imported before
it is used. The pydantic model of a component is derived from its constructor: a keyword-only parameter's name is the
YAML key, its annotation the type, its default the default, and its line in the docstring's `Args:` section the help.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import PydanticCustomError, core_schema

from ulzoo.runtime.messages import suggest

GROUP = "ulzoo.components"


def error_at(loc: tuple[str | int, ...], message: str, value: object = None) -> ValidationError:
    """A validation error at `loc` below the model whose validator raises it."""
    custom = PydanticCustomError("spec", "{message}", {"message": message})
    return ValidationError.from_exception_data("spec", [{"type": custom, "loc": loc, "input": value}])


class ComponentConfig(BaseModel):
    """Base class of the derived component models: frozen, rejects unknown keys and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    kind: str


class Table:
    """Components of one role by `kind`: built in (`entries`) or from the entry-point group `ulzoo.components`.

    A third-party package adds the kind `mine` to the table `encoder` with an entry point named `encoder.mine`.

    Args:
        name: the role, e.g. "encoder"; the prefix of entry-point names and the noun in error messages.
        entries: kind -> import string "module:Class", or the class itself.
        module: where `getattr(module, "NAME_KIND")` is the derived model, so that specs can be pickled; None: nowhere.
    """

    def __init__(self, name: str, entries: Mapping[str, str | type], *, module: str | None = None) -> None:
        self.name, self.module = name, module or __name__
        self.entries = dict(entries)
        self._configs: dict[str, type[ComponentConfig]] = {}

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {list(self.entries)})"

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        plugins: dict[str, EntryPoint] = {}
        for point in entry_points(group=GROUP):
            table, _, kind = point.name.partition(".")
            if table != self.name:
                continue
            if kind in self.entries:
                raise ValueError(f"package {_package(point)} adds {self.name} {kind!r}, a name that ulzoo already has")
            if kind in plugins and plugins[kind].value != point.value:
                both = f"{_package(plugins[kind])} and {_package(point)}"
                raise ValueError(f"packages {both} both add {self.name} {kind!r}")
            plugins[kind] = point
        return plugins

    def kinds(self) -> tuple[str, ...]:
        """All kinds, the built-in ones first. Raises ValueError if two installed packages add the same kind."""
        return (*self.entries, *self._plugins)

    def package(self, kind: str) -> str | None:
        """Name and version of the installed package that adds `kind`; None for a built-in kind."""
        point = self._plugins.get(kind)
        return f"{point.dist.name} {point.dist.version}" if point and point.dist else None

    def get(self, kind: str) -> type:
        """Import and return the class of `kind`. Raises ValueError, with a suggestion, if there is none."""
        if kind not in self.kinds():
            raise ValueError(f"unknown {self.name} {kind!r}{suggest(kind, self.kinds())}")
        if kind in self._plugins:
            point = self._plugins[kind]
            try:
                return point.load()
            except Exception as error:
                component = f"{self.name} {kind!r} of package {_package(point)}"
                raise ValueError(f"{component} cannot be imported: {error}") from error
        entry = self.entries[kind]
        if isinstance(entry, str):
            module, _, name = entry.partition(":")
            return getattr(import_module(module), name)
        return entry

    def config(self, kind: str) -> type[ComponentConfig]:
        """The pydantic model of `kind`: `kind` first, then one field per keyword-only constructor parameter."""
        if kind not in self._configs:
            self._configs[kind] = self._derive(kind, self.get(kind))
        return self._configs[kind]

    def _derive(self, kind: str, cls: type) -> type[ComponentConfig]:
        descriptions = argument_help(cls)
        kind_field = Field(kind, description=f"the {self.name} to use")
        fields: dict[str, Any] = {"kind": (Literal[kind], kind_field)}
        for parameter in inspect.signature(cls, eval_str=True).parameters.values():
            if parameter.kind is not parameter.KEYWORD_ONLY:
                continue
            subject = f"{self.name} {kind!r}: parameter {parameter.name!r} of {cls.__name__}"
            if parameter.annotation is parameter.empty:
                raise ValueError(f"{subject} has no type annotation, so no spec can set it")
            if parameter.name in fields:
                raise ValueError(f"{subject} has a reserved name")
            default = ... if parameter.default is parameter.empty else parameter.default
            field = Field(default, description=descriptions.get(parameter.name))
            fields[parameter.name] = (parameter.annotation, field)
        doc = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
        return create_model(
            f"{self.name}_{kind}", __base__=ComponentConfig, __module__=self.module, __doc__=doc or None, **fields
        )

    def union(self, kinds: Iterable[str] | None = None) -> Any:
        """The discriminated union, on `kind`, of the models of `kinds` (default: all); imports every class."""
        models = [self.config(kind) for kind in (self.kinds() if kinds is None else kinds)]
        return models[0] if len(models) == 1 else Annotated[reduce(or_, models), Field(discriminator="kind")]

    def build(self, config: ComponentConfig, *positional: Any, **extra: Any) -> Any:
        """Construct the component of `config`. The compiler passes `positional` and `extra`; the rest is the spec's."""
        keys = {key: getattr(config, key) for key in type(config).model_fields if key != "kind"}
        return self.get(config.kind)(*positional, **keys, **extra)


@dataclass(frozen=True)
class Choice:
    """Annotation of a field that holds one component: `Annotated[ComponentConfig, Choice(ENCODERS)]`.

    It validates like `table.union()`, but imports only the component that the spec names.

    Args:
        table: the table of kinds.
        default: the kind of a mapping without the key `kind`.
        only: the kinds allowed here; None allows all kinds of the table.
        excluded: kinds that are not allowed here.
        why: the reason for `only` or `excluded`, quoted in the error message.
    """

    table: Table
    default: str | None = None
    only: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    why: str = ""

    @property
    def allowed(self) -> tuple[str, ...]:
        """The kinds that may be chosen."""
        return tuple(kind for kind in self.only or self.table.kinds() if kind not in self.excluded)

    def kind_of(self, value: Mapping[str, Any]) -> Any:
        return value.get("kind", self.default)

    def validate(self, value: Any) -> ComponentConfig:
        if isinstance(value, ComponentConfig):
            value = value.model_dump()
        if not isinstance(value, Mapping):
            raise PydanticCustomError("dict_type", "expected a mapping")
        kinds = self.table.kinds()
        kind = self.kind_of(value)
        if kind is None:
            raise error_at((), f"missing key 'kind': one of {', '.join(self.allowed)}", value)
        if kind not in kinds:
            raise error_at(("kind",), f"unknown {self.table.name} {kind!r}{suggest(kind, self.allowed)}", kind)
        if kind not in self.allowed:
            reason = f": {self.why}" if self.why else ""
            rule = f"only {' or '.join(self.only)} is allowed here" if self.only else f"{kind} is not allowed here"
            raise error_at(("kind",), f"{rule}{reason}", kind)
        return self.table.config(kind).model_validate({**value, "kind": kind})

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        return handler(TypeAdapter(self.table.union(self.allowed)).core_schema)


def argument_help(cls: type) -> dict[str, str]:
    """Parameter name -> help text, from the `Args:` section of the docstring of the class or its constructor."""
    descriptions: dict[str, str] = {}
    for doc in (cls.__doc__, cls.__init__.__doc__):  # type: ignore[misc]
        section = re.search(r"^Args:\n((?:[ \t]+.*\n?|[ \t]*\n)+)", inspect.cleandoc(doc or ""), re.MULTILINE)
        if not section:
            continue
        entry = re.compile(r"^(\w+)(?: *\([^)]*\))?: *(.*)")
        name = None
        for line in inspect.cleandoc("\n" + section[1]).splitlines():
            if match := entry.match(line):
                name = match[1]
                descriptions[name] = match[2].strip()
            elif name and line.strip():
                descriptions[name] = f"{descriptions[name]} {line.strip()}".strip()
    return descriptions


def _package(point: EntryPoint) -> str:
    return repr(point.dist.name if point.dist else point.value)
