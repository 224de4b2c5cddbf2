"""An exported model: tensors in a safetensors file whose metadata holds a digest of the file's content.

Above 5 GB the file is split into parts (`ulzoo.files.tensor_shards`); its path is then that of the single file it would
otherwise be. A training checkpoint (`ulzoo.training.checkpointing`) is rejected with an error that names the right
command. Nothing is ever unpickled.
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
from ulzoo.files.atomic import write_atomically
from ulzoo.runtime.messages import one_line

FORMAT = 1
CHECKPOINT = "checkpoint.json"  # marks the folder of a training checkpoint


class DamagedFile(ValueError):
    """A file that is truncated, altered or of another kind; the message is reduced to one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class TensorFile:
    """The content of a file: tensors by name, and the metadata, a JSON object."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """SHA-256, in hex, of names, types, shapes and values of tensors, whichever file they are stored in."""
    return _digest(tensors, "")


def _digest(tensors: dict[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a file atomically, a large model in parts; `metadata` must be valid JSON."""
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
            write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata=header))
            tensor_shards.remove_parts(path)
    except SafetensorError as error:  # for example a full disk
        raise OSError(f"{path}: cannot be written: {error}") from None


def files_of(path: Path) -> list[Path]:
    """The files that make up the model at `path`, with the one to open first; [] if there are none."""
    path = _without_index_suffix(path)
    if path.is_file():
        return [path]
    if not (index := tensor_shards.index_of(path)).is_file():
        return []
    return [index, *(path.with_name(name) for name in sorted(set(_index(path)[1].values())))]


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the folder of a training checkpoint."""
    return (path / CHECKPOINT).is_file()


def digest_of(path: Path) -> str:
    """The stored digest of tensors and metadata, not verified. Raises ValueError as `read_metadata` does."""
    return _header(path)["digest"]


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone, not verified against the digest.

    Raises:
        ValueError: no such file; a newer format; not a model exported by ulzoo (`DamagedFile`).
    """
    try:
        metadata = json.loads(_header(path)["content"])
    except (json.JSONDecodeError, RecursionError) as error:
        raise DamagedFile(f"{path}: damaged ({error})") from None
    if not isinstance(metadata, dict):
        raise DamagedFile(f"{path}: damaged (its metadata is not an object)")
    return metadata


def read(path: Path, device: str | torch.device = "cpu") -> TensorFile:
    """Read the file and verify its digest.

    Raises:
        ValueError: as `read_metadata` does, or the digest differs (`DamagedFile`).
    """
    header = _header(path)
    try:
        tensors = _tensors(_without_index_suffix(path))
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path}: truncated or damaged ({error})") from None
    if _digest(tensors, header["content"]) != header["digest"]:
        raise DamagedFile(f"{path}: damaged, its content does not match its digest")
    metadata = read_metadata(path)
    return TensorFile({name: tensor.to(device) for name, tensor in tensors.items()}, metadata)


def _without_index_suffix(path: Path) -> Path:
    """The path of the model, given that path or the path of its index."""
    return path.with_name(path.name.removesuffix(tensor_shards.INDEX))


def _index(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    try:
        return tensor_shards.read_index(path)
    except (OSError, ValueError) as error:
        raise DamagedFile(f"{path}: damaged ({error})") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.is_file():
        return safetensors.torch.load_file(path)
    part_names = _index(path)[1]
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(part_names.values())):
        tensors |= safetensors.torch.load_file(path.with_name(part))
    return tensors


def _header(path: Path) -> dict[str, str]:
    """The header of a file that ulzoo exported, or of its index."""
    if is_checkpoint(path) or is_checkpoint(path.parent):
        raise DamagedFile(f"{path}: a training checkpoint; `ulzoo export` makes a loadable file of it")
    model = _without_index_suffix(path)
    if model.is_file():
        try:
            with safe_open(model, framework="pt") as file:
                header = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise DamagedFile(f"{path}: not a complete safetensors file ({error})") from None
    elif tensor_shards.index_of(model).is_file():
        header = _index(model)[0]
    else:
        raise ValueError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    kind = header.get("ulzoo")
    if kind == "part":
        raise DamagedFile(f"{path}: one part of a model; pass its index, or the name without the part number")
    if kind != "export" or "content" not in header or "digest" not in header:
        raise DamagedFile(f"{path}: a safetensors file, but not a model exported by ulzoo")
    if header.get("version") != str(FORMAT):
        version = one_line(str(header.get("version")))
        raise ValueError(f"{path}: written in format {version}, this ulzoo reads format {FORMAT}; upgrade ulzoo")
    return header
