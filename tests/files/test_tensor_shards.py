"""Exports in parts: they are read like a single file, and damage of any part is detected."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ulzoo.files import tensor_file, tensor_shards
from ulzoo.files.tensor_file import DamagedFile, files_of

TENSORS = {f"layer{i}.weight": torch.full((10,), float(i)) for i in range(5)}  # 40 bytes each
METADATA = {"spec": {"name": "x"}}
NAMES = ["x.safetensors.index.json", *(f"x-0000{i}-of-00003.safetensors" for i in (1, 2, 3))]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(tensor_shards, "PART_BYTES", 100)


@pytest.fixture
def path(tmp_path):
    tensor_file.write(path := tmp_path / "x.safetensors", TENSORS, METADATA)
    return path


def names(path):
    return sorted(file.name for file in path.parent.iterdir())


def same(content) -> bool:
    return content.tensors.keys() == TENSORS.keys() and all(
        torch.equal(content.tensors[k], TENSORS[k]) for k in TENSORS
    )


def test_it_is_read_by_the_name_of_the_single_file_and_of_the_index(path):
    assert names(path) == sorted(NAMES) == sorted(file.name for file in files_of(path))
    assert files_of(path)[0].name == NAMES[0]
    for name in (path, path.with_name(NAMES[0])):
        content = tensor_file.read(name)
        assert same(content) and content.metadata == METADATA
        assert tensor_file.read_metadata(name) == METADATA


def test_the_layout_is_that_of_hugging_face(path):
    index = json.loads(path.with_name(NAMES[0]).read_text())
    assert index["metadata"]["total_size"] == 200
    read = {}
    for part in set(index["weight_map"].values()):
        for name, tensor in load_file(path.with_name(part)).items():
            assert index["weight_map"][name] == part
            read[name] = tensor
    assert read.keys() == TENSORS.keys()


def test_the_digest_is_that_of_one_file(path, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_shards, "PART_BYTES", 5 * 10**9)
    tensor_file.write(tmp_path / "single.safetensors", TENSORS, METADATA)
    assert tensor_file.digest_of(tmp_path / "single.safetensors") == tensor_file.digest_of(path)


def test_only_the_replaced_export_is_removed(path, monkeypatch):
    (path.parent / "x-00009-of-00009.safetensors").write_bytes(b"unrelated")
    monkeypatch.setattr(tensor_shards, "PART_BYTES", 150)
    tensor_file.write(path, TENSORS, METADATA)
    assert same(tensor_file.read(path)) and len(names(path)) == 4
    monkeypatch.setattr(tensor_shards, "PART_BYTES", 1000)
    tensor_file.write(path, TENSORS, METADATA)
    assert names(path) == ["x-00009-of-00009.safetensors", "x.safetensors"]
    monkeypatch.setattr(tensor_shards, "PART_BYTES", 100)
    tensor_file.write(path, TENSORS, METADATA)
    assert names(path) == sorted([*NAMES, "x-00009-of-00009.safetensors"])


def test_a_failed_write_keeps_the_previous_export(path, monkeypatch):
    """The old index is valid until the new one is written, if the parts have other names."""
    monkeypatch.setattr(tensor_shards, "PART_BYTES", 150)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(tensor_shards, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        tensor_file.write(path, TENSORS, METADATA | {"new": 1})
    assert same(tensor_file.read(path)) and tensor_file.read_metadata(path) == METADATA


def test_parts_of_another_program_are_not_removed(tmp_path):
    (tmp_path / "x-00001-of-00001.safetensors").write_bytes(b"theirs")
    index = {"metadata": {"total_size": 6}, "weight_map": {"a": "x-00001-of-00001.safetensors"}}
    (tmp_path / "x.safetensors.index.json").write_text(json.dumps(index))
    tensor_file.write(tmp_path / "x.safetensors", {}, {})
    assert len(names(tmp_path / "x")) == 3


def test_every_altered_byte_of_every_file_is_noticed_or_harmless(path):
    for file in files_of(path):
        content = file.read_bytes()
        for i in range(0, len(content), 7):
            altered = bytearray(content)
            altered[i] ^= 4
            file.write_bytes(altered)
            try:
                assert same(tensor_file.read(path))
            except ValueError as error:
                assert str(path) in str(error) and "\n" not in str(error)
        file.write_bytes(content[:-1])
        with pytest.raises(DamagedFile):
            tensor_file.read(path)
        file.unlink()
        with pytest.raises(ValueError, match=r"x\.safetensors: "):
            tensor_file.read(path)
        file.write_bytes(content)
    assert same(tensor_file.read(path))


def test_parts_of_two_exports_do_not_mix(path, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / path.name
    tensor_file.write(other, {name: tensor + 1 for name, tensor in TENSORS.items()}, METADATA)
    path.with_name(NAMES[1]).write_bytes(other.with_name(NAMES[1]).read_bytes())
    with pytest.raises(DamagedFile, match="does not match its digest"):
        tensor_file.read(path)


def test_a_single_part_is_refused(path):
    with pytest.raises(DamagedFile, match="one part of a model; pass its index"):
        tensor_file.read(path.with_name(NAMES[1]))


OUTSIDE = ["../x-00001-of-00003.safetensors", "/etc/passwd", "x-00001-of-00003.safetensors/../y", "y", 3, None, ["x"]]


@pytest.mark.parametrize("name", OUTSIDE, ids=str)
def test_an_index_leads_to_its_own_parts_alone(path, name):
    file = path.with_name(NAMES[0])
    index = json.loads(file.read_text())
    index["weight_map"]["layer0.weight"] = name
    file.write_text(json.dumps(index))
    with pytest.raises(DamagedFile, match="which is not one of its parts"):
        tensor_file.read(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"metadata": 1, "weight_map": {}}', "1" * 10_000, "\0"]
)
def test_an_invalid_index(path, text):
    path.with_name(NAMES[0]).write_text(text)
    for read in (lambda: tensor_file.read(path), lambda: files_of(path)):
        with pytest.raises(DamagedFile, match=r"x\.safetensors: damaged \("):
            read()


def test_an_index_is_read_to_a_bound(path, monkeypatch):
    monkeypatch.setattr(tensor_shards, "MAX_HEADER_BYTES", 100)
    with pytest.raises(DamagedFile, match="its index is larger than"):
        tensor_file.read(path)
