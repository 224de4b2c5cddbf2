"""YAML with the file and line of every key.

The dialect is YAML 1.1 without its surprises: `1e-4` is a number, only true and false are booleans (`no` and `on` are
text unless a boolean field reads them), dates and keys are text, duplicate keys are errors, integers have 64 bits. Tags
are refused, and size, depth and the expansion of aliases are bounded.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode, SequenceNode

from ulzoo.runtime.messages import list_texts, one_line

MAX_BYTES = 1 << 20
MAX_NODES = 10_000  # after aliases are expanded: an alias bomb stops here
MAX_DEPTH = 32

KeyPath = tuple[str | int, ...]


class SpecError(ValueError):
    """An error in a spec, in one line: `file:line: key.path: message; did you mean 'x'?`."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True, slots=True)
class Node:
    """A YAML value and its location.

    Attributes:
        value: a scalar, a list of nodes, or a mapping to nodes.
        where: "file:line" or "--set a.b=c".
        bridge: True for a mapping implied by the key path of an override; merging keeps the location of the mapping
            that it is merged into.
        folder: of the file, absolute; None for packaged files and the command line.
    """

    value: "dict[str, Node] | list[Node] | str | int | float | bool | None"
    where: str
    bridge: bool = False
    folder: str | None = None

    def plain(self) -> Any:
        """The value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value

    def in_folder(self, folder: str) -> "Node":
        """This node and those in it, with their folder."""
        value = self.value
        if isinstance(value, dict):
            value = {key: node.in_folder(folder) for key, node in value.items()}
        elif isinstance(value, list):
            value = [node.in_folder(folder) for node in value]
        return Node(value, self.where, self.bridge, folder)

    def at(self, path: KeyPath) -> "Node":
        """The node at `path`, or its nearest ancestor that exists."""
        node = self
        for key in path:
            if isinstance(node.value, dict) and key in node.value:
                node = node.value[str(key)]
            elif isinstance(node.value, list) and isinstance(key, int) and 0 <= key < len(node.value):
                node = node.value[key]
            else:
                break
        return node

    def place(self, path: KeyPath) -> str:
        """The location of `path`, or of its nearest ancestor that exists."""
        return self.at(path).where


def merge(parent: Node, child: Node) -> Node:
    """Merge `child` over `parent`: mappings key by key; other values, and mappings of another `kind`, are replaced."""
    if not isinstance(parent.value, dict) or not isinstance(child.value, dict):
        return child
    kinds = [node.value["kind"].value for node in (parent, child) if "kind" in node.value]  # type: ignore[operator, index, union-attr, call-overload]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        return child
    merged = dict(parent.value)
    for key, node in child.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, parent.where if child.bridge else child.where, parent.bridge and child.bridge)


def located(node: Node | None, path: KeyPath, message: str) -> SpecError:
    """The error `file:line: key.path: message`; without file and line if `node` is None."""
    place, dotted = node.place(path) if node else "", ".".join(map(str, path))
    if place.startswith(f"--set {dotted}="):
        dotted = ""  # already part of the location
    return SpecError(": ".join(part for part in (place, dotted, message) if part))


def read_yaml(path: Path, shown: str) -> Node:
    """The mapping in a YAML file.

    Args:
        shown: the name of the file in error messages.

    Raises:
        SpecError: the file cannot be read, or is not a YAML mapping.
    """
    try:
        if not path.is_file():
            raise SpecError(f"{shown}: {'not a file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{shown}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise SpecError(f"{shown}: larger than {MAX_BYTES >> 20} MiB, the limit for a spec")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{shown}:{line}: not UTF-8 text") from None
    node = parse_yaml(text, shown)
    if not isinstance(node.value, dict):
        raise SpecError(f"{node.where}: a spec is a mapping of keys to values at its top level")
    return node


def parse_override(text: str) -> Node:
    """Parse `a.b=c` into the nested mapping `{a: {b: c}}`; `c` is YAML."""
    where = f"--set {text}"
    dotted, equals, value = text.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise SpecError(f"{where}: write key.path=value, as in train.latents.steps=100")
    return nested(keys, _parse_value(value, where))


def parse_overrides(overrides: Iterable[str]) -> list[Node]:
    """Parse several overrides. Raises SpecError if one is malformed, or a single text stands for the list."""
    return [parse_override(text) for text in list_overrides(overrides)]


def list_overrides(overrides: Iterable[str]) -> list[str]:
    """The overrides as a list. Raises SpecError for anything but texts, and for a single text."""
    try:
        return list_texts(overrides, "overrides: expected a list of key.path=value")
    except ValueError as error:
        raise SpecError(str(error)) from None


def _parse_value(text: str, where: str) -> Node:
    """Parse the YAML of an override, in which `#` begins no comment: a plain value that contains it is text."""
    node, end = _compose(text, lambda line: where)
    if not (rest := text[end:].lstrip()).startswith("#"):
        return node
    if not isinstance(node.value, dict | list) and text.lstrip()[0] not in "'\"&!":
        return Node(text.strip(), where)
    raise SpecError(f"{where}: {rest[:40]!r} after the value would be a comment; remove it, or quote the value")


def nested(keys: Sequence[str], node: Node) -> Node:
    """Nest `node` under the key path `keys`, in bridge mappings."""
    for key in reversed(keys):
        node = Node({key: node}, node.where, bridge=True)
    return node


def parse_yaml(text: str, source: str, *, lines: bool = True) -> Node:
    """Parse one YAML document into nodes located at `source:line`, or at `source` if `lines` is False."""

    return _compose(text, lambda line: f"{source}:{line}" if lines else source)[0]


def _compose(text: str, place: Callable[[int], str]) -> tuple[Node, int]:
    """Parse one YAML document into nodes located by `place`; also the index in `text` where the document ends."""
    loader = None
    try:
        loader = _Loader(text)
        document = loader.get_single_node()
        if document is None:
            return Node(None, place(1)), 0
        is_block = (
            document.style in ("|", ">")
            if isinstance(document, ScalarNode)
            else not getattr(document, "flow_style", True)
        )
        return _Tree(place).node(document), len(text) if is_block else document.end_mark.index
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"{place(mark.line + 1 if mark else 1)}: not valid YAML: {what}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"{place(line)}: not valid YAML: the character {error.character!r} is not allowed") from None
    except SpecError:
        raise
    except (ValueError, OverflowError, yaml.YAMLError) as error:  # e.g. an escape beyond Unicode
        raise SpecError(f"{place(loader.line + 1 if loader else 1)}: not valid YAML: {error}") from None


_CORE = "tag:yaml.org,2002:"
_SCALARS = {  # tag -> pattern of plain scalars
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|false)$", re.IGNORECASE),
    "int": re.compile(r"^[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    "float": re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    "merge": re.compile(r"^<<$"),
}


def _scalar(tag: str, text: str) -> str | int | float | bool | None:
    match tag:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            digits = text.replace("_", "")
            base = {"0x": 16, "0b": 2}.get(digits.lstrip("+-")[:2].lower(), 10)
            number = int(digits, base)
            if abs(number) >= 2**63:
                raise ValueError
            return number
        case "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            text.encode()  # raises on a lone surrogate, which an escape can produce
            return text


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the scalars above; only composes nodes, `_Tree` constructs the values."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        self.depth = self.count = 0
        super().__init__(text)

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH or self.count > MAX_NODES:
            problem = "nested too deeply" if self.depth > MAX_DEPTH else f"more than {MAX_NODES} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` or a YAML 1.1 parser would read as another type."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> ScalarNode:
        return self.represent_scalar(_CORE + "str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)

for _tag, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(_CORE + _tag, _pattern, None)
    _Dumper.add_implicit_resolver(_CORE + _tag, _pattern, None)
for _first, _resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items():
    _Dumper.yaml_implicit_resolvers.setdefault(_first, []).extend(_resolvers)


def dump_yaml(data: dict[str, Any]) -> str:
    """Serialize plain data to YAML that `parse_yaml` reads back unchanged; lists of scalars are on one line."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


class _Tree:
    """Converts PyYAML's composed nodes, a graph if there are aliases, to a bounded tree of `Node`."""

    def __init__(self, place: Any) -> None:
        self.place = place
        self.count = 0

    def node(self, raw: yaml.Node, at: yaml.Node | None = None, depth: int = 0) -> Node:
        """Convert `raw`; its location is that of `at`, the key in a mapping, if given."""
        where = self.place((at or raw).start_mark.line + 1)
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            raise SpecError(f"{where}: aliases expand to more than {MAX_NODES} values, or refer to themselves")
        tag = raw.tag.removeprefix(_CORE)
        if isinstance(raw, MappingNode) and tag == "map":
            return Node(self.mapping(raw, depth), where)
        if isinstance(raw, SequenceNode) and tag == "seq":
            return Node([self.node(item, None, depth + 1) for item in raw.value], where)
        if isinstance(raw, ScalarNode) and tag in (*_SCALARS, "str"):
            try:
                return Node(_scalar(tag, raw.value), where)
            except ValueError:
                raise SpecError(f"{where}: {raw.value[:40]!r} cannot be read as {tag}") from None
        raise SpecError(f"{where}: the tag {raw.tag!r} is not allowed in a spec")

    def mapping(self, raw: MappingNode, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        inherited: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key, value in raw.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise SpecError(f"{self.place(line)}: a key must be a scalar")
            if key.tag == _CORE + "merge":
                for mapping in self.merged(value, key, depth):
                    inherited = {**mapping, **inherited}
                continue
            name = str(_scalar("str", key.value))
            if name in own:
                raise SpecError(f"{self.place(line)}: {name}: duplicate key, first given on line {lines[name]}")
            own[name] = self.node(value, key, depth + 1)
            lines[name] = line
        return {**inherited, **own}

    def merged(self, raw: yaml.Node, key: yaml.Node, depth: int) -> Iterator[dict[str, Node]]:
        """The mappings of `<<: *alias` or `<<: [*a, *b]`, highest precedence first."""
        for item in raw.value if isinstance(raw, SequenceNode) else [raw]:
            node = self.node(item, key, depth + 1)
            if not isinstance(node.value, dict):
                raise SpecError(f"{node.where}: '<<' must be a mapping or a list of mappings")
            yield node.value
