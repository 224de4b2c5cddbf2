"""Captions of images in a folder: token embeddings in NAME.npy beside each image."""

import pickle
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ulzoo.data import Emoji3D, ImageFolder, batches
from ulzoo.data.images.caption_file import UnreadableText, check_text, read_text
from ulzoo.data.images.name_captions import name_words
from ulzoo.data.source import TensorSource

TOKENS, WIDTH = 4, 3


def embeddings(length: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(length).normal(size=(length, WIDTH)).astype(dtype)


def fill(folder: Path, n: int = 4) -> Path:
    """Images 0.png, 1.png, ... with captions of 0, 1, ... tokens, in `train` and `val`."""
    for split in ("train", "val"):
        (folder / split).mkdir()
        for i in range(n):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / split / f"{i}.png")
            np.save(folder / split / f"{i}.npy", embeddings(i))
    return folder


def folder(root: Path, **keys: object) -> ImageFolder:
    given = {"root": str(root), "resolution": 8, "text_tokens": TOKENS, "text_width": WIDTH, **keys}
    return ImageFolder("train", **given)  # type: ignore[arg-type]


def test_captions_are_the_files_beside_the_images(tmp_path: Path) -> None:
    source = folder(fill(tmp_path))
    assert len(source) == 4  # embeddings do not count as images
    for i in range(4):
        sample = source[i]
        assert sample.key == f"train/{i}.png" and sample.text is not None and sample.text.dtype == torch.float32
        assert np.array_equal(sample.text.numpy(), embeddings(i))
    assert (source.contract.text_tokens, source.contract.text_width) == (TOKENS, WIDTH)
    described = ImageFolder.describe(resolution=8, num_classes=None, text_tokens=TOKENS, text_width=WIDTH)
    assert described == source.contract
    plain = folder(tmp_path, text_tokens=None, text_width=None)
    assert plain[3].text is None and plain.contract.text_width == 0


def test_batches_with_workers_are_those_without(tmp_path: Path) -> None:
    source = folder(fill(tmp_path))
    serial, parallel = (list(islice(batches(source, 3, seed=1, start=2, workers=n), 4)) for n in (0, 2))
    for a, b in zip(serial, parallel, strict=True):
        assert a["key"] == b["key"] and a["text"] is not None and b["text"] is not None
        assert torch.equal(a["text"].tokens, b["text"].tokens) and torch.equal(a["text"].mask, b["text"].mask)
        assert a["text"].mask.sum(1).tolist() == [int(Path(key).stem) for key in a["key"]]


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", ">f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_either_size_and_order(tmp_path: Path, dtype: str, order: str) -> None:
    written = np.array(embeddings(6, dtype), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", written)
    check_text(tmp_path / "a.npy", WIDTH)
    assert np.array_equal(read_text(tmp_path / "a.npy", WIDTH, 10).numpy(), written.astype("float32"))


def test_a_long_caption_is_cut(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", embeddings(9))
    assert np.array_equal(read_text(tmp_path / "a.npy", WIDTH, TOKENS).numpy(), embeddings(9)[:TOKENS])


def written(path: Path, content: object) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)  # type: ignore[arg-type]


def truncated(array: np.ndarray) -> bytes:
    np.save(file := BytesIO(), array)
    return file.getvalue()[:-1]


BAD = {
    "missing": (None, r"missing; the caption of an image is expected beside it"),
    "pickled": (np.array([{"a": 1}], dtype=object), r"contains pickled objects, which are not loaded"),
    "bare pickle": (pickle.dumps([1]), r"magic string"),
    "empty": (b"", r"an empty file"),
    "double": (np.zeros((2, WIDTH)), r"contains float64, not float16 or float32"),
    "whole numbers": (np.zeros((2, WIDTH), np.int32), r"contains int32, not"),
    "too wide": (np.zeros((2, 5), np.float32), r"has shape \(2, 5\), but text_width 3 requires \(tokens, 3\)"),
    "pooled": (np.zeros(WIDTH, np.float32), r"has shape \(3,\), but text_width"),
    "truncated": (truncated(embeddings(2)), r"truncated: has 23 of the 24 bytes"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("verify", [True, False])
def test_bad_captions_are_named(tmp_path: Path, name: str, verify: bool) -> None:
    content, message = BAD[name]
    root = fill(tmp_path)
    (root / "train" / "2.npy").unlink()
    written(root / "train" / "2.npy", content)
    count = r"1 of 4 images cannot be read .*the first is " if verify else ""
    with pytest.raises(ValueError, match=rf"{count}.*2\.npy: .*{message}") as error:
        list(islice(batches(folder(root, verify=verify), 4, seed=0), 2))
    assert "\n" not in str(error.value)


def test_an_image_with_a_bad_caption_can_be_skipped(tmp_path: Path) -> None:
    (fill(tmp_path) / "train" / "2.npy").unlink()
    with pytest.warns(UserWarning, match=r"1 of 4 images cannot be read and are skipped: .*2\.npy: missing"):
        source = folder(tmp_path, skip_unreadable=True)
    assert [source[i].key for i in range(len(source))] == ["train/0.png", "train/1.png", "train/3.png"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_named_when_read(tmp_path: Path, value: float) -> None:
    root = fill(tmp_path)
    array = embeddings(3, "float16")
    array[1, 2] = value
    np.save(root / "train" / "3.npy", array)
    source = folder(root)  # the headers are valid
    with pytest.raises(UnreadableText, match=r"3\.npy: token 1 is not finite; float16 ends at 65504"):
        source[3]
    array = np.vstack([embeddings(TOKENS), np.full((1, WIDTH), value, "float32")])
    np.save(root / "train" / "3.npy", array)
    assert source[3].text is not None  # the token is beyond `text_tokens`


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text_width": None}, "text_width is missing: captions need both text_tokens and text_width"),
        ({"text_tokens": None}, "text_tokens is missing: captions need both"),
        ({"text_tokens": 0}, "text_tokens must be at least 1, or null for images without captions, not 0"),
        ({"text_width": -1}, "text_width must be at least 1, or null"),
    ],
)
def test_bad_keys(tmp_path: Path, keys: dict[str, int | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder(fill(tmp_path), **keys)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(at=st.integers(0, 127), byte=st.integers(0, 255))
def test_a_damaged_header_is_a_one_line_error_or_harmless(tmp_path: Path, at: int, byte: int) -> None:
    np.save(tmp_path / "a.npy", embeddings(2))
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[at] = byte
    (tmp_path / "a.npy").write_bytes(content)
    try:
        assert read_text(tmp_path / "a.npy", WIDTH, TOKENS).shape[1] == WIDTH
    except UnreadableText as error:
        assert str(error).startswith(f"{tmp_path / 'a.npy'}: ") and "\n" not in str(error)


# --- captions as text, for the CLIP score


def test_the_text_of_a_caption(tmp_path: Path) -> None:
    root = fill(tmp_path)
    images = folder(root)
    path = root / "train" / "2.txt"
    for content, message in (
        (None, "missing; the caption of an image as text is expected beside it"),
        (b" \n", "empty"),
        (b"\xff", "not UTF-8"),
        (b"a" * (1 << 17), "larger than 64 KiB"),
    ):
        if content:
            path.write_bytes(content)
        with pytest.raises(UnreadableText, match=rf"2\.txt: {message}"):
            images.caption(2)
    path.write_text("  a dog\n", encoding="utf-8")
    assert folder(root).caption(2) == "a dog"  # without a warning of files that are passed over


def test_emoji_have_their_names_and_other_sources_say_that_they_have_none() -> None:
    emoji = Emoji3D("val", resolution=32, captions=True)
    assert emoji.caption(0).split() == name_words(emoji.keys[0])
    other = TensorSource(emoji.images[:1], labels=[0], keys=["a"], contract=Emoji3D("val", resolution=32).contract)
    with pytest.raises(ValueError, match="TensorSource has no captions as text, only embeddings; ImageFolder reads"):
        other.caption(0)
