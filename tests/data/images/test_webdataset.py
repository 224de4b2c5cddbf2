"""Images in tar files: content, order, and the errors for invalid shards."""

import io
import json
import os
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.data import WebDataset, batches, in_order
from ulzoo.data.source import Unreadable
from ulzoo.data.storage import shard_index
from ulzoo.files.atomic import sha256

Members = list[tuple[str, bytes]]
WriteTar = Callable[[Path, Members], None]
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def caption(i: int) -> np.ndarray:
    return np.full((i % 3, 4), i, np.float16)


def members(start: int, stop: int) -> Members:
    """Images i (every second one a lossless WebP) with labels i % 3 and captions of i % 3 tokens."""
    members: Members = []
    for i in range(start, stop):
        image, text = Image.fromarray(PIXELS[i]), io.BytesIO()
        np.save(text, caption(i))
        picture = ("webp", encoded(image, "webp", lossless=True)) if i % 2 else ("png", encoded(image))
        files = {picture[0]: picture[1], "cls": str(i % 3).encode(), "npy": text.getvalue(), "json": b"{}"}
        members += [(f"im{i}.{suffix}", content) for suffix, content in files.items()]
    return members


@pytest.fixture
def root(tmp_path: Path, write_tar: WriteTar) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, (start, stop) in enumerate(((0, 5), (5, 6), (6, 12))):
        write_tar(folder / f"train-{number:05d}.tar", members(start, stop))
    write_tar(folder / "val-00000.tar", members(0, 2))
    (folder / "labels.json").write_text(json.dumps(["x", "y", "z"]))
    return folder


def opened(root: Path, split: str = "train", **keys: object) -> WebDataset:
    return WebDataset(split, **{"root": str(root), "resolution": 8, "num_classes": 3, **keys})  # type: ignore[arg-type]


def refused(message: str, root: Path, split: str = "train", **keys: object) -> None:
    with pytest.raises(ValueError, match=message) as error:
        opened(root, split, **keys)
    assert str(error.value).isprintable()


def test_reads_every_image_as_it_is(root: Path) -> None:
    source = opened(root, text_tokens=2, text_width=4)
    assert len(source) == 12 and len(opened(root, "val")) == 2
    for i in (11, 0, 5):
        sample = source[i]
        assert np.array_equal(sample.pixels.permute(1, 2, 0), PIXELS[i])
        assert (sample.label, sample.key) == (i % 3, f"im{i}")
        assert sample.text is not None and np.array_equal(sample.text, caption(i))
    assert source.label_names == ("x", "y", "z") and not source.skips_unreadable
    described = WebDataset.describe(resolution=8, num_classes=3, text_tokens=2, text_width=4, root="/nowhere")
    assert (described.shape, described.num_classes, described.text_width) == ((3, 8, 8), 3, 4)
    plain = opened(root, num_classes=None)
    assert {plain[i].label for i in range(12)} == {-1} and plain[0].text is None


@pytest.mark.parametrize("workers", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_resumes_exactly_over_epochs_with_other_workers(root: Path, workers: int) -> None:
    """Three epochs and more of 12 images, in batches of 5 that may span two epochs: each image once per epoch."""
    source = opened(root, text_tokens=2, text_width=4)
    stream = list(islice(batches(source, 5, seed=3), 8))
    keys = [key for batch in stream for key in batch["key"]]
    for epoch in range(3):
        assert sorted(keys[12 * epoch : 12 * epoch + 12]) == sorted(f"im{i}" for i in range(12))
    assert keys[:12] != keys[12:24] != keys[24:36]
    for start in (1, 3, 6):
        resumed = list(
            islice(
                batches(opened(root, text_tokens=2, text_width=4), 5, seed=3, start=5 * start, workers=workers),
                8 - start,
            )
        )
        for before, after in zip(stream[start:], resumed, strict=True):
            assert before["key"] == after["key"] and torch.equal(before["x"], after["x"])
            assert before["text"] and after["text"] and torch.equal(before["text"].tokens, after["text"].tokens)


def cached_indices(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache/ulzoo/shards").glob("*.npz"))


def test_the_index_is_computed_once(
    root: Path, tmp_path: Path, write_tar: WriteTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[Path] = []
    scan = shard_index.read_examples
    monkeypatch.setattr(
        shard_index, "read_examples", lambda shard, suffixes: scanned.append(shard) or scan(shard, suffixes)
    )
    before = sorted(root.iterdir())
    first = opened(root)
    assert len(scanned) == 3 and sorted(root.iterdir()) == before  # nothing is written to the folder of the data
    again = opened(root, num_classes=None)
    assert len(scanned) == 3 and again.index.keys == first.index.keys
    assert np.array_equal(again.index.rows, first.index.rows)
    write_tar(root / "train-00003.tar", members(0, 1))  # another shard
    assert len(opened(root)) == 13 and len(scanned) == 7
    os.utime(root / "train-00000.tar", ns=(1, 1))  # same size, other modification time
    opened(root)
    assert len(scanned) == 11
    cached_indices(tmp_path)[0].write_bytes(b"damaged")
    assert len(opened(root)) == 13 and len(scanned) == 15
    opened(root)
    assert len(scanned) == 15


def test_a_valid_index_beside_the_shards_is_used(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard_index.write_index(root, "train")
    monkeypatch.setattr(shard_index, "_scan", None)
    assert len(opened(root)) == 12 and not cached_indices(tmp_path)
    monkeypatch.undo()
    os.utime(root / "train-00000.tar", ns=(1, 1))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert len(opened(root)) == 12  # no writable cache: computed again


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def one(tmp_path: Path, write_tar: WriteTar, name: str, content: bytes, **keys: object) -> WebDataset:
    write_tar(tmp_path / "train-0.tar", [(name, content)])
    return opened(tmp_path, num_classes=None, **keys)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "an empty file"), (b"hello", "not an image"), (bomb(), "decompression bomb")]
)
def test_images_that_cannot_be_read_are_named(
    tmp_path: Path, write_tar: WriteTar, content: bytes, message: str
) -> None:
    source = one(tmp_path, write_tar, "deep/bad.png", content)
    with pytest.raises(Unreadable, match=rf"train-0\.tar: deep/bad\.png: .*{message}"):
        source[0]


def test_unreadable_images_are_skipped_on_request(root: Path, write_tar: WriteTar) -> None:
    write_tar(root / "train-00001.tar", [("bad.png", bomb()), ("bad.cls", b"0")])
    with pytest.raises(ValueError, match=r"00001\.tar: bad\.png: "):
        list(islice(batches(opened(root), 12, seed=0), 1))
    stream = list(in_order(opened(root, skip_unreadable=True), 20))
    assert [len(batch["key"]) for batch in stream] == [11] and list(stream[0]["skipped"]) == [5]


def test_unusual_images(tmp_path: Path, write_tar: WriteTar) -> None:
    """The format is detected from the content, not the name; of an animation, the first frame is used."""
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    grey16 = encoded(Image.fromarray(ramp.astype(np.uint16) * 257))
    assert np.array_equal(one(tmp_path, write_tar, "a.png", grey16)[0].pixels[1], ramp)
    cmyk = encoded(Image.new("RGB", (8, 8), (200, 40, 90)).convert("CMYK"), "jpeg", quality=100)
    colour = one(tmp_path, write_tar, "a.jpg", cmyk)[0].pixels[:, 4, 4].numpy().astype(int)
    assert np.abs(colour - (200, 40, 90)).max() <= 3
    frames = [Image.new("RGB", (8, 8), (i, i, i)) for i in (10, 200)]
    for kind in ("gif", "webp", "png"):
        animation = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert one(tmp_path, write_tar, "a.jpeg", animation)[0].pixels.float().mean() == 10
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = one(tmp_path, write_tar, "a.png", encoded(Image.fromarray(np.stack([ramp] * 3, -1)), exif=exif))
    assert np.array_equal(turned[0].pixels[0], np.rot90(ramp, -1))
    assert one(tmp_path, write_tar, "A.JPG", cmyk, resolution=5)[0].pixels.shape == (3, 5, 5)


def test_every_format_but_no_hidden_files(tmp_path: Path, write_tar: WriteTar) -> None:
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    files = [("./a/0.gif", "gif"), ("a/1.BMP", "bmp"), ("a/2.tiff", "tiff"), ("a/3.jp2", "jpeg2000"),
             ("._4.png", "png"), ("a/.ipynb_checkpoints/5.png", "png"), ("__MACOSX/6.png", "png")]  # fmt: skip
    write_tar(tmp_path / "train-0.tar", [(name, encoded(image, kind)) for name, kind in files])
    source = opened(tmp_path, num_classes=None)
    assert [source[i].key for i in range(len(source))] == ["./a/0", "a/1", "a/2", "a/3"]


def test_shards_that_are_refused(root: Path, write_tar: WriteTar) -> None:
    path = root / "train-00001.tar"
    content, png = path.read_bytes(), encoded(Image.fromarray(PIXELS[0]))
    path.write_bytes(content[:700])
    refused(r"00001\.tar: not a complete tar file: ", root)
    for twice in ([("a.png", png), ("a.png", png)], [("a.png", png), ("b.png", png), ("a.PNG", png)]):
        write_tar(path, [*twice, ("a.cls", b"0")])
        refused(r"00001\.tar: contains 'a'\.png twice", root)
    write_tar(path, [("a.png", png), ("a.jpg", png)])
    refused(r"00001\.tar: contains two images of one key, 'a'\.jpg and \.png", root)
    for label, text in ((b"3", "3"), (b"-1", "-1"), (b"", ""), (b"1" * 20, "1" * 20), (None, "no label")):
        write_tar(path, [("a.png", png), *([] if label is None else [("a.cls", label)])])
        refused(rf"00001\.tar: 'a'\.cls must contain a label from 0 to 2, not '{text}'", root)
    write_tar(path, [("a.png", png), ("a.cls", b"0")])
    refused(r"00001\.tar: a\.png has no caption KEY\.npy beside it \(1 of 12\)", root, text_tokens=2, text_width=4)
    write_tar(path, [("a.txt", b"hello")])
    assert len(opened(root)) == 11
    path.unlink()
    refused(r"train-00001\.tar is missing", root)


def test_other_mistakes(root: Path, write_tar: WriteTar) -> None:
    write_tar(root / "val-00000.tar", [("a.txt", b"hello")])
    refused(r"no images \(KEY\.jpg, \.png, \.webp, \.gif, \.\.\.\) in its 1 val shards", root, "val")
    refused(r"no shards in it \(expected train-\*\.tar\); `ulzoo prepare image_folder`", root / "absent")
    refused("text_width is missing", root, text_tokens=3)
    refused("4 names, but num_classes is 3|has 3 names, but num_classes is 4", root, num_classes=4)
    source = opened(root, text_tokens=2, text_width=5)
    with pytest.raises(Unreadable, match=r"im0\.png's \.npy: has shape \(0, 4\), but text_width 5"):
        source[0]
    (root / "train-00000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="truncated since it was opened"):
        source[1]


def test_shards_that_do_not_match_the_manifest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"name": path.stem, "bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(root.glob("train-*.tar"))
    ]
    entry = {"complete": True, "totals": {"images": 12, "bytes": 1}, "shards": rows}

    def manifest(**changes: object) -> None:
        (root / "manifest.json").write_text(json.dumps({"splits": {"train": {**entry, **changes}}}))

    manifest()
    assert len(opened(root)) == 12 and len(opened(root, "val")) == 2
    shard_index.write_index(root, "train")
    os.utime(root / "train-00000.tar", ns=(1, 1))
    with monkeypatch.context() as patch:  # as if copied: the hashes prove that the index belongs to these shards
        patch.setattr(shard_index, "_scan", None)
        assert len(opened(root)) == 12
    manifest(complete=False)
    refused("preparation of train is not complete: run the same command again", root)
    manifest(shards=[*rows, {"name": "train-00003", "bytes": 10}])
    refused(r"train-00003\.tar: not a complete shard, it is missing", root)
    manifest(shards=[{**rows[0], "bytes": 10}])
    refused(r"train-00000\.tar: not a complete shard, it has [\d,]+ bytes, not 10 as in the manifest", root)
    (root / "manifest.json").write_text('{"of": "another program"}')
    assert len(opened(root)) == 12
