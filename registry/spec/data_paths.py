"""Where the data of a spec is on this machine: a relative path is looked for beside the file that it is written in.

A path that is not there is taken from the working directory, as are those of packaged specs and of the command line.
The spec itself keeps the path as it was written, so that its hash is the same on every machine. A run records the paths
that it has read, in a file of its own that no export contains.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ulzoo.files.atomic import write_text
from ulzoo.registry.spec.yaml_source import Node

FILE = ".data_paths.json"
KEYS = ("root", "path")
"""Keys of a data section that are paths; `path` can be a name on the Hugging Face hub."""


def paths_beside_files(node: Node | None, parents: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """("data.root=PATH", absolute path) of every relative path of a data section in a spec that was read from files."""
    for key, child in node.value.items() if node and isinstance(node.value, dict) else ():
        if key != "data":
            yield from paths_beside_files(child, (*parents, key))
        elif isinstance(child.value, dict):
            for name in KEYS:
                leaf = child.value.get(name)
                if leaf and leaf.folder and isinstance(leaf.value, str) and is_relative(leaf.value):
                    yield f"{'.'.join((*parents, key, name))}={leaf.value}", os.path.join(leaf.folder, leaf.value)


def is_relative(path: str) -> bool:
    """Whether the path depends on a folder; not so URLs and paths below the home folder."""
    return not (os.path.isabs(path) or path.startswith("~") or "://" in path)


def locate(config: Any, path: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """The keys of the data section at the key `path` whose data is elsewhere than it is written -> the path there.

    Args:
        recorded: "data.root=PATH" -> absolute path, of `paths_beside_files` or of a run.
    """
    located = {}
    for key in KEYS:
        written = getattr(config, key, None)
        other = recorded.get(f"{path}.{key}={written}")
        if not isinstance(written, str) or other is None or not is_relative(written):
            continue
        if os.path.exists(other) or (key == "root" and not os.path.exists(written)):
            located[key] = other
    return located


def write_data_paths(folder: Path, sections: Mapping[str, Any], recorded: Mapping[str, str]) -> None:
    """Record in a run directory where the data is that its spec names by relative paths.

    Args:
        sections: key path -> data section, as the spec has it.
        recorded: as for `locate`.
    """
    paths = {}
    for path, config in sections.items():
        located = locate(config, path, recorded)
        for key in KEYS:
            written = getattr(config, key, None)
            if isinstance(written, str) and is_relative(written) and os.path.exists(located.get(key, written)):
                paths[f"{path}.{key}={written}"] = os.path.abspath(located.get(key, written))
    if paths:
        write_text(folder / FILE, json.dumps(paths, indent=1) + "\n")


def read_data_paths(folder: Path) -> dict[str, str]:
    """The paths that a run has recorded; {} if there are none."""
    try:
        paths = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    pairs = paths.items() if isinstance(paths, dict) else ()
    return {key: path for key, path in pairs if isinstance(path, str)}
