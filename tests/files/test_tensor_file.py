"""Tensor files: round trips, and the detection of any damage."""

import json
import pickle
import struct
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ulzoo.files import tensor_file
from ulzoo.files.tensor_file import DamagedFile
from ulzoo.training.checkpoint import TrainingState, write_checkpoint

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]
METADATA = {"step": 3, "nested": {"list": [1, 2.5, None, "ä\n\"'"]}, "empty": {}}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the bits are the same, including NaN."""
    bits = (a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def tensors() -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.tensor([[1.5, float("nan")], [-0.0, float("inf")]]),
        "half": torch.arange(5).bfloat16(),
        "step": torch.tensor(7.0, dtype=torch.float64),
        "none": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
    }


@pytest.fixture
def path(tmp_path):
    tensor_file.write(path := tmp_path / "x.safetensors", tensors(), METADATA)
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)], ids=str)
def test_round_trip(dtype, shape, tmp_path):
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 10).to(dtype)
    tensor_file.write(tmp_path / "x", {"t": tensor}, METADATA)
    content = tensor_file.read(tmp_path / "x")
    assert content.metadata == METADATA == tensor_file.read_metadata(tmp_path / "x")
    assert same(content.tensors["t"], tensor)


def test_views_and_parameters_are_written_by_value(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    tensor_file.write(tmp_path / "x", {"row": weight[0], "transposed": weight.T}, {})
    content = tensor_file.read(tmp_path / "x").tensors
    assert same(content["row"], torch.tensor([0.0, 1, 2]))
    assert same(content["transposed"], torch.tensor([[0.0, 3], [1, 4], [2, 5]]))


def test_no_tensors_at_all(tmp_path):
    tensor_file.write(tmp_path / "x", {}, METADATA)
    assert tensor_file.read(tmp_path / "x") == tensor_file.TensorFile({}, METADATA)


def test_a_training_checkpoint_is_refused_and_the_command_named(tmp_path):
    write_checkpoint(TrainingState("latents", 1, tensors(), {}), tmp_path / "one")
    for path in (tmp_path / "one", *(tmp_path / "one").iterdir()):
        for read in (tensor_file.read, tensor_file.read_metadata, tensor_file.digest_of):
            with pytest.raises(DamagedFile, match="a training checkpoint; `ulzoo export` makes a loadable file of it"):
                read(path)


# --------------------------------------------------------------------------------------------------------------- damage


def assert_refused_or_intact(data: bytes, path) -> None:
    """Reading either raises a one-line ValueError or returns exactly what was written."""
    path.write_bytes(data)
    try:
        content = tensor_file.read(path)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        return
    assert content.metadata == METADATA
    assert content.tensors.keys() == tensors().keys()
    assert all(same(content.tensors[name], tensor) for name, tensor in tensors().items())


FIXTURE = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FIXTURE
@given(data=st.data(), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(data, bit, path, tmp_path):
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << bit
    assert_refused_or_intact(bytes(content), tmp_path / "flipped")


@FIXTURE
@given(data=st.data(), byte=st.integers(0, 255))
def test_an_altered_byte_is_noticed_or_harmless(data, byte, path, tmp_path):
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = byte
    assert_refused_or_intact(bytes(content), tmp_path / "altered")


def test_every_bit_of_a_tensor_counts(path, tmp_path):
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    assert len(content) - start > 30
    for i in range(start, len(content)):
        flipped = bytearray(content)
        flipped[i] ^= 1
        (tmp_path / "flipped").write_bytes(bytes(flipped))
        with pytest.raises(DamagedFile):
            tensor_file.read(tmp_path / "flipped")


def test_truncated_at_any_length(path, tmp_path):
    content = path.read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(DamagedFile, match="cut: "):
            tensor_file.read(tmp_path / "cut")


def test_bytes_at_the_end(path, tmp_path):
    (tmp_path / "long").write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedFile):
        tensor_file.read(tmp_path / "long")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 2**64 - 1))
@example(length=2**64 - 1)
@example(length=2**63)
@example(length=100_000_000)
@example(length=0)
def test_a_header_that_lies_about_its_length(length, path, tmp_path):
    assert_refused_or_intact(struct.pack("<Q", length) + path.read_bytes()[8:], tmp_path / "lying")


def header_of(path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def forge(path, header: dict, body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("key, value", [("dtype", {"\x1f": None}), ("dtype", "\x1b[31m"), ("shape", "a\nb")])
def test_a_header_cannot_control_a_terminal(path, key, value):
    """The errors of safetensors quote invalid headers."""
    header, body = header_of(path)
    header["mask"][key] = value
    forge(path, header, body)
    for read in (tensor_file.read, tensor_file.read_metadata):
        with pytest.raises(DamagedFile) as error:
            read(path)
        assert str(error.value).isprintable()


def test_a_newer_format_is_refused(path):
    header, body = header_of(path)
    header["__metadata__"]["version"] = "2"
    forge(path, header, body)
    for read in (tensor_file.read, tensor_file.read_metadata):
        with pytest.raises(ValueError, match="written in format 2, this ulzoo reads format 1; upgrade ulzoo") as error:
            read(path)
        assert not isinstance(error.value, DamagedFile)  # it must not be ignored silently


@pytest.mark.parametrize("missing", ["ulzoo", "content", "digest"])
def test_a_safetensors_file_of_another_program(missing, path):
    header, body = header_of(path)
    del header["__metadata__"][missing]
    forge(path, header, body)
    with pytest.raises(DamagedFile, match="not a model exported by ulzoo"):
        tensor_file.read(path)


def test_altered_metadata_does_not_match_the_digest(path):
    header, body = header_of(path)
    header["__metadata__"]["content"] = json.dumps(METADATA | {"step": 4})
    forge(path, header, body)
    with pytest.raises(DamagedFile, match="does not match its digest"):
        tensor_file.read(path)
    header["__metadata__"]["content"] = "{"
    forge(path, header, body)
    with pytest.raises(DamagedFile):
        tensor_file.read_metadata(path)


def test_other_files_and_none(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (tmp_path / "pickle").write_bytes(pickle.dumps(Bomb()))
    torch.save({"a": torch.zeros(2)}, tmp_path / "torch")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name in ("pickle", "torch", "zip", "empty", "folder", "absent"):
        for read in (tensor_file.read, tensor_file.read_metadata):
            with pytest.raises(ValueError, match=name) as error:
                read(tmp_path / name)
            assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "exploded").exists()
