"""Tensors of a safetensors file in an object store, read by byte ranges."""

import json
from math import prod
from typing import Any

import torch
from torch import Tensor

from ulzoo.data.storage.remote import RemotePath
from ulzoo.files.tensor_shards import MAX_HEADER_BYTES

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class RemoteTensors:
    """The methods of `safetensors.safe_open` that latents need.

    A file is the length of its header in 8 bytes, the header in JSON, and the tensors, whose dtypes, shapes and byte
    ranges the header lists (https://github.com/huggingface/safetensors#format).

    Raises:
        ValueError: no access, or not a safetensors file.
    """

    def __init__(self, path: RemotePath):
        length = int.from_bytes(path.read(0, 8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header: dict[str, Any] = json.loads(path.read(8, length))
        self._metadata: dict[str, str] = header.pop("__metadata__", {})
        self._slices = {name: RemoteSlice(path, 8 + length, entry) for name, entry in header.items()}

    def metadata(self) -> dict[str, str]:
        return self._metadata

    def keys(self) -> list[str]:
        return list(self._slices)

    def get_tensor(self, name: str) -> Tensor:
        return self._slices[name][:]

    def get_slice(self, name: str) -> "RemoteSlice":
        return self._slices[name]


class RemoteSlice:
    """A tensor of a remote file; indices are a slice of the first dimension, or integers of the leading ones.

    Args:
        path: the file.
        data: where the tensors begin in it.
        entry: of the tensor in the header.
    """

    def __init__(self, path: RemotePath, data: int, entry: dict[str, Any]):
        begin, end = entry["data_offsets"]
        self.path, self.begin = path, data + begin
        self.dtype, self.shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        if begin < 0 or min(self.shape, default=0) < 0 or end - begin != prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"byte range {begin} to {end} of a tensor of shape {list(self.shape)}")

    def __getitem__(self, index: slice | tuple[int, ...]) -> Tensor:
        if isinstance(index, slice):
            first, last, step = index.indices(self.shape[0])
            if step != 1:
                raise IndexError(f"{index}: only steps of 1")
            count, row = max(last - first, 0), self.shape[1:]
            shape: tuple[int, ...] = (count, *row)
        else:
            first, count, row = 0, 1, self.shape[len(index) :]
            shape = row
            for i, size in zip(index, self.shape, strict=False):
                if not 0 <= i < size:
                    raise IndexError(f"{index} of shape {list(self.shape)}")
                first = first * size + i
        row_bytes = prod(row) * self.dtype.itemsize
        if not count * row_bytes:
            return torch.empty(shape, dtype=self.dtype)
        content = self.path.read(self.begin + first * row_bytes, count * row_bytes)
        if len(content) < count * row_bytes:
            raise ValueError(f"{self.path}: is cut short")
        return torch.frombuffer(bytearray(content), dtype=self.dtype).reshape(shape)
