"""An exported model: tensors in one safetensors file whose metadata carries a digest of all it holds.

Past 5 GB it is in parts (`ulzoo.files.tensor_shards`), and its path is that of the file that it would be. A training checkpoint
is another thing (`ulzoo.training.checkpointing`) and is refused by name. Nothing is ever unpickled.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ulzoo.files import tensor_shards
from ulzoo.files.atomic import one_line, write_atomically

FORMAT = 1
CHECKPOINT = "checkpoint.json"  # in the folder of a training checkpoint


class DamagedFile(ValueError):
    """A file that is cut short, altered or not what belongs there; the message is made one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class TensorFile:
    """What was read: tensors by name and the metadata, a JSON object."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def _digest(tensors: dict[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write atomically, large models in parts; `metadata` must be JSON."""
    content = json.dumps(metadata, sort_keys=True, allow_nan=False)
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = {
        "format": "pt",
        "ulzoo": "export",
        "version": str(FORMAT),
        "content": content,
        "digest": _digest(tensors, content),
    }

    try:
        if len(tensor_shards.split(tensors)) > 1:
            tensor_shards.write_parts(path, tensors, header)
        else:
            write_atomically(path, lambda aside: safetensors.torch.save_file(tensors, aside, metadata=header))
            tensor_shards.remove_parts(path)
    except SafetensorError as error:  # a full disk, say
        raise OSError(f"{path}: cannot be written: {error}") from None


def files_of(path: Path) -> list[Path]:
    """The files that hold what is at `path`, the one to open first; [] if there are none."""
    path = _whole(path)
    if path.is_file():
        return [path]
    if not (index := tensor_shards.index_of(path)).is_file():
        return []
    return [index, *(path.with_name(name) for name in sorted(set(_index(path)[1].values())))]


def is_checkpoint(path: Path) -> bool:
    """Whether a path is that of a training checkpoint."""
    return (path / CHECKPOINT).is_file()


def digest_of(path: Path) -> str:
    """The digest that the file carries, of its tensors and metadata, not checked. ValueError as `read_metadata`."""
    return _header(path)["digest"]


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone, not checked against the digest.

    Raises:
        ValueError: no such file; a newer format; not an exported model of ours (`DamagedFile`).
    """
    try:
        metadata = json.loads(_header(path)["content"])
    except (json.JSONDecodeError, RecursionError) as error:
        raise DamagedFile(f"{path}: damaged ({error})") from None
    if not isinstance(metadata, dict):
        raise DamagedFile(f"{path}: damaged (its metadata is not an object)")
    return metadata


def read(path: Path, device: str | torch.device = "cpu") -> TensorFile:
    """Read and check the whole file.

    Raises:
        ValueError: as `read_metadata`, or the digest differs (`DamagedFile`).
    """
    header = _header(path)
    try:
        tensors = _tensors(_whole(path))
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path}: cut short or damaged ({error})") from None
    if _digest(tensors, header["content"]) != header["digest"]:
        raise DamagedFile(f"{path}: damaged, its content does not match the digest it carries")
    metadata = read_metadata(path)
    return TensorFile({name: tensor.to(device) for name, tensor in tensors.items()}, metadata)


def _whole(path: Path) -> Path:
    """The path of the file that the parts behind an index would be."""
    return path.with_name(path.name.removesuffix(tensor_shards.INDEX))


def _index(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    try:
        return tensor_shards.read_index(path)
    except (OSError, ValueError) as error:
        raise DamagedFile(f"{path}: damaged ({error})") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.is_file():
        return safetensors.torch.load_file(path)
    places = _index(path)[1]
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(places.values())):
        tensors |= safetensors.torch.load_file(path.with_name(part))
    return tensors


def _header(path: Path) -> dict[str, str]:
    """The header of a file of ours."""
    if is_checkpoint(path) or is_checkpoint(path.parent):
        raise DamagedFile(f"{path}: a training checkpoint; `ulzoo export` makes a loadable file of it")
    whole = _whole(path)
    if whole.is_file():
        try:
            with safe_open(whole, framework="pt") as file:
                header = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise DamagedFile(f"{path}: not a whole safetensors file ({error})") from None
    elif tensor_shards.index_of(whole).is_file():
        header = _index(whole)[0]
    else:
        raise ValueError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    found = header.get("ulzoo")
    if found == "part":
        raise DamagedFile(f"{path}: one part of a model; give its index, or the name without the number")
    if found != "export" or "content" not in header or "digest" not in header:
        raise DamagedFile(f"{path}: a safetensors file, but not one of ulzoo's")
    if header.get("version") != str(FORMAT):
        written = one_line(str(header.get("version")))
        raise ValueError(f"{path}: written in format {written}, this ulzoo reads format {FORMAT}; upgrade ulzoo")
    return header
