"""Loading a spec: read a packaged name or a file, merge it over what it extends, apply overrides, validate."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.size_defaults import decide_by_sizes
from ulzoo.registry.spec.yaml_source import Node, SpecError, located, merge, read_yaml
from ulzoo.runtime.messages import suggest


def is_path(text: str) -> bool:
    """Whether `text` denotes a file rather than a packaged name."""
    return text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text


@dataclass(frozen=True)
class Library:
    """Reads YAML documents of one type by packaged name or path, and resolves `extends`.

    Args:
        noun: the type of document, for error messages.
        find: returns the packaged documents, name -> file. A name may contain a slash.
    """

    noun: str
    find: Callable[[], dict[str, Path]]

    def read(self, name_or_path: str | os.PathLike[str]) -> Node:
        """The mapping of a packaged name or a file, merged over the documents that it extends.

        Raises:
            SpecError: the document or one that it extends cannot be read.
        """
        text = os.fspath(name_or_path)
        if not isinstance(name_or_path, os.PathLike) and (text in self.find() or not is_path(text)):
            return self._extended(*self._packaged(text), chain=())
        path = Path(text)
        if not os.path.exists(path):
            raise SpecError(f"{text}: no such file{self._nearby(path)}")
        return self._extended(path, text, chain=())

    def _packaged(self, name: str) -> tuple[Path, str]:
        """The file of a packaged document, and its path for error messages."""
        paths = self.find()
        if name not in paths:
            raise SpecError(f"there is no {self.noun} named {name!r}{suggest(name, paths)}")
        return paths[name], _display_path(paths[name])

    def _nearby(self, path: Path) -> str:
        """A suggestion for a missing file: a packaged document or a file with a similar name in the same folder."""
        packaged = {Path(name).name: name for name in self.find()} | {name: name for name in self.find()}
        if path.stem in packaged:
            return f"; the {self.noun} {packaged[path.stem]!r} is packaged: give its name alone"
        folder = path.parent
        names = {entry.stem: entry.name for entry in sorted(folder.glob("*.y*ml"))} if os.path.isdir(folder) else {}
        if close := get_close_matches(path.stem, names, n=1):
            return f"; did you mean {str(folder / names[close[0]])!r}?"
        if close := get_close_matches(str(path), packaged, n=1) or get_close_matches(path.stem, packaged, n=1):
            return f"; did you mean the packaged {self.noun} {packaged[close[0]]!r}?"
        return ""

    def _extended(self, path: Path, shown: str, chain: tuple[tuple[Path, str], ...]) -> Node:
        """The file's mapping merged over that of its parent, recursively; `chain` holds the files that led here."""
        node = read_yaml(path, shown)
        if path not in self.find().values():
            node = node.in_folder(os.path.abspath(path.parent))
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
            raise refuse(f"expected the name or path of one {self.noun}")
        target = link.value
        if target not in self.find() and is_path(target):
            parent, parent_shown = path.parent / target, os.path.normpath(os.path.join(os.path.dirname(shown), target))
            if not os.path.exists(parent):
                raise refuse(f"no such file {parent_shown!r}{self._nearby(Path(parent_shown))}")
        else:
            try:
                parent, parent_shown = self._packaged(target)
            except SpecError as error:
                raise refuse(str(error)) from None
        if parent.resolve() in [seen for seen, _ in chain]:
            circle = " -> ".join([*(name for _, name in chain), parent_shown])
            raise located(node, ("extends",), f"circular: {circle}")
        return merge(self._extended(parent, parent_shown, chain), own)


def _display_path(path: Path) -> str:
    """The path relative to the working directory if it is inside, else absolute."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def find_specs() -> dict[str, Path]:
    """The packaged specs: name -> file."""
    folder = Path(str(files("ulzoo.specs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_sweeps() -> dict[str, Path]:
    """The packaged sweeps, the YAML files in subfolders of `specs`: name, e.g. "paper/table2_loss_factor" -> file."""
    folder = Path(str(files("ulzoo.specs")))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("*/**/*.yaml"))}


SPECS = Library("spec", find_specs)


def spec_from_source(source: Node, overlay: Sequence[Node] = ()) -> Spec:
    """Merge the mappings of `overlay`, later ones taking precedence, over `source` and validate the result.

    The overlay is merged into one mapping first, so that the order of `kind` and its keys does not matter.
    """
    if overlay:
        source = merge(source, reduce(merge, overlay))
    spec = Spec.from_source(source)
    decide_by_sizes(spec)
    return spec


def spec_from_dict(data: Mapping[str, Any]) -> Spec:
    """Validate plain data, such as the result of `Spec.to_dict`; errors give key paths without file and line."""
    return Spec.from_plain(data)
