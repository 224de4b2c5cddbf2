"""Large tensor files in parts, in Hugging Face's layout: `x-00001-of-0000N.safetensors` and an index.

    x.safetensors.index.json    {"metadata": {…}, "weight_map": {tensor: part}}

The metadata of the index includes the header that a single file would have.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ulzoo.files.atomic import write_atomically, write_text

PART_BYTES = 5 * 10**9
INDEX = ".index.json"
MAX_HEADER_BYTES = 10**8  # the limit that safetensors sets; also for our index, which contains one
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")


def index_of(path: Path) -> Path:
    """The path of the index of a file in parts."""
    return path.with_name(path.name + INDEX)


def write_parts(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write the parts, then the index, then remove the files of a previous export that have other names."""
    previous, groups = _own_parts(path), split(tensors)
    names = [f"{path.stem}-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    part_header = {"format": "pt", "ulzoo": "part", "digest": header["digest"]}
    for name, group in zip(names, groups, strict=True):
        write_atomically(path.with_name(name), partial(safetensors.torch.save_file, group, metadata=part_header))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index: dict[str, Any] = {"metadata": {"total_size": total, **header}}
    index["weight_map"] = {key: name for name, group in zip(names, groups, strict=True) for key in group}
    write_text(index_of(path), json.dumps(index, indent=1))
    for name in {path.name, *previous} - set(names):
        path.with_name(name).unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove the parts and the index of a previous export; files that ulzoo did not write stay."""
    if previous := _own_parts(path):
        index_of(path).unlink()
    for name in previous:
        path.with_name(name).unlink(missing_ok=True)


def split(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Group the tensors in their order; a group is below PART_BYTES unless it is a single tensor."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > PART_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    return groups


def read_index(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The header, and the map from tensor to part, of a file in parts. Raises ValueError if the index is damaged."""
    with open(index_of(path), "rb") as file:
        data = file.read(MAX_HEADER_BYTES + 1)
    if len(data) > MAX_HEADER_BYTES:
        raise ValueError(f"its index is larger than {MAX_HEADER_BYTES // 10**6} MB")
    try:
        index = json.loads(data)
    except RecursionError:
        raise ValueError("its index is nested too deeply") from None
    header, part_names = (index.get(key) if isinstance(index, dict) else None for key in ("metadata", "weight_map"))
    if not isinstance(header, dict) or not isinstance(part_names, dict):
        raise ValueError("its index is not in Hugging Face's format")
    for part in part_names.values():
        match = _PART.fullmatch(part) if isinstance(part, str) else None
        if match is None or match[1] != path.stem:
            raise ValueError(f"its index names {part!r}, which is not one of its parts")
    return {key: value for key, value in header.items() if isinstance(value, str)}, part_names


def _own_parts(path: Path) -> set[str]:
    """The names of the parts at `path`, if ulzoo wrote them."""
    try:
        header, part_names = read_index(path)
    except (OSError, ValueError):
        return set()
    return set(part_names.values()) if "ulzoo" in header else set()
