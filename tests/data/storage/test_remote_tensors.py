"""Tensors of a safetensors file that is read by byte ranges, beside those of `safe_open`."""

import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from ulzoo.data.storage.remote import RemotePath
from ulzoo.data.storage.remote_tensors import RemoteTensors

TENSORS = {
    "a": torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5),
    "b": torch.arange(7, dtype=torch.int64),
    "c": torch.arange(6, dtype=torch.bfloat16).reshape(3, 2),
    "none": torch.empty(0, 2, dtype=torch.float16),
}


@pytest.fixture
def stored(tmp_path: Path, s3: RemotePath) -> tuple[Path, RemotePath]:
    """A file, and its copy in a store."""
    file = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, file, {"note": "é"})
    (s3 / file.name).upload(file)
    return file, s3 / file.name


def test_tensors_and_slices_are_those_of_safe_open(stored):
    remote, local = RemoteTensors(stored[1]), safe_open(stored[0], framework="pt")
    assert set(remote.keys()) == set(TENSORS) and remote.metadata() == local.metadata() == {"note": "é"}
    for name, tensor in TENSORS.items():
        assert remote.get_tensor(name).dtype == tensor.dtype and torch.equal(remote.get_tensor(name), tensor)
    for name, index in (("a", (1,)), ("a", (1, 2)), ("a", (0, 2, 3)), ("c", slice(1, 3)), ("b", slice(2, 2))):
        assert torch.equal(remote.get_slice(name)[index], TENSORS[name][index]), (name, index)
    for index in ((2,), (0, 3), (-1,), slice(0, 2, 2)):
        with pytest.raises(IndexError):
            remote.get_slice("a")[index]


def test_only_the_bytes_of_a_slice_are_requested(stored, monkeypatch):
    remote, sizes, read = RemoteTensors(stored[1]), [], RemotePath.read

    def counted(self: RemotePath, offset: int, size: int) -> bytes:
        sizes.append(size)
        return read(self, offset, size)

    monkeypatch.setattr(RemotePath, "read", counted)
    remote.get_slice("a")[1, 2]
    assert sizes == [4 * 5 * 4]


def header(entry: dict[str, object]) -> bytes:
    text = json.dumps({"a": entry}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 2**40), "a header of 1099511627776 bytes"),
        (header({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), r"byte range 0 to 8 of a tensor of shape \[3"),
        (header({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}), "byte range -8 to 0"),
        (header({"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}) + b"1234", "x.safetensors: is cut short"),
    ],
)
def test_a_damaged_file_is_an_error(content, message, stored, tmp_path):
    (tmp_path / "damaged").write_bytes(content)
    stored[1].upload(tmp_path / "damaged")
    with pytest.raises(ValueError, match=message):
        RemoteTensors(stored[1]).get_tensor("a")
