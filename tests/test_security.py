"""Attacks by malicious files that no other test covers: see docs/security.md."""

import ast
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.data.images.decode import UnreadableImage, read_rgb
from ulzoo.data.images.webdataset import WebDataset
from ulzoo.data.latents import Latents, Origin, write_latents
from ulzoo.data.storage.manifest import Manifest, Shard
from ulzoo.data.storage.shard_index import _read as read_index
from ulzoo.data.storage.shard_index import write_index
from ulzoo.data.storage.shards import find_shards
from ulzoo.files import tensor_file
from ulzoo.registry import load
from ulzoo.registry.sweeps.store import Store

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


# --- the code itself


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Dotted name and node of every call."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


DETECTOR = ("ulzoo/evaluation/features/videos.py", "torch.jit.load")


def test_nothing_is_unpickled_or_evaluated() -> None:
    """No pickle, eval, exec, shell or unpacking of archives; torch.load and np.load read arrays only.

    The only program that is loaded, the detector of FVD, must have a hash given by the user or by ulzoo.
    """
    forbidden = {"eval", "exec", "compile", "__import__", "os.system", "pickle.load", "pickle.loads", "yaml.load"}
    forbidden |= {"yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.hub.load", "os.popen"}
    needed = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
    checked = 0
    for package in ("ulzoo", "registry", "cli"):
        for path in (ROOT / package).rglob("*.py"):
            for name, node in calls(ast.parse(path.read_text("utf-8"))):
                place = (path.relative_to(ROOT).as_posix(), name)
                assert name not in forbidden or place == DETECTOR, f"{path}: {name}"
                assert not name.endswith((".extractall", ".extract")), f"{path}: {name}"
                if name in needed:
                    key, value = needed[name]
                    given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                    assert given.get(key) is value, f"{path}: {name}"
                    checked += 1
    assert checked >= 3


# --- exports


def test_metadata_that_is_nested_without_end(tmp_path: Path) -> None:
    """Python's JSON parser would exhaust the stack."""
    path = tmp_path / "x.safetensors"
    tensor_file.write(path, {}, {})
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["content"] = "[" * 500_000
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    for read in (tensor_file.read, tensor_file.read_metadata):
        with pytest.raises(tensor_file.DamagedFile, match="damaged"):
            read(path)


def test_a_folder_in_place_of_a_file_and_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"contains no model\.safetensors"):
        load(tmp_path)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path / "circle")


# --- tar shards


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size or len(content)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def picture(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def opened(folder: Path, *members: bytes) -> WebDataset:
    folder.mkdir()
    (folder / "train-000000.tar").write_bytes(b"".join(members) + bytes(1024))
    return WebDataset("train", root=str(folder), resolution=8)


NAMES = ["../../outside", "/outside", "a/../../outside", "./a", "C:\\outside", "\x1b[31ma", "a" * 5000]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_a_members_name_is_a_key_and_not_a_path(tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    source = opened(tmp_path / "shards", member(f"{name}.png", content=picture()))
    assert len(source) == 1 and source[0].pixels.shape == (3, 8, 8)
    created = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "shards") for path in created)


def test_links_and_devices_in_a_shard_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    members = [member(f"{i}.png", kind, link=str(tmp_path / "secret.png")) for i, kind in enumerate(kinds)]
    source = opened(tmp_path / "shards", *members, member("9.png", content=picture()))
    assert len(source) == 1 and source[0].key == "9"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [2**45, 2**62], ids=["2^45", "2^62"])
def test_a_name_of_a_member_that_claims_to_be_huge(tmp_path: Path, kind: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="not a complete tar file"):
        opened(
            tmp_path / "shards", member("x", kind, content=b"a" * 100, size=size), member("0.png", content=picture())
        )


def test_an_index_beside_shards_is_validated(tmp_path: Path) -> None:
    content = (member("0.png", content=picture()), member("1.png", content=picture()))
    assert len(opened(tmp_path / "shards", *content)) == 2
    path = tmp_path / "shards" / ".index-train.npz"
    write_index(tmp_path / "shards", "train")
    with np.load(path) as kept:
        arrays = dict(kept)
    rows = arrays["rows"]
    forged = {
        "of no shard": rows + 99 * np.eye(9, dtype=int)[0],
        "before the shard": rows - 10**6 * np.eye(9, dtype=int)[2],
    }
    for case, wrong in forged.items():
        np.savez(path, **{**arrays, "rows": wrong})
        assert read_index(path.read_bytes, find_shards(tmp_path / "shards", "train")) is None, case
    np.savez_compressed(path, **arrays, more=np.zeros(10**7, np.uint8))
    assert path.stat().st_size < 20_000
    assert read_index(path.read_bytes, find_shards(tmp_path / "shards", "train")) is None


# --- images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(bytes(900))) + chunk(b"IEND", b"")
    )


TEXT = zlib.compress(bytes(10**8))
BOMBS = {
    "sides": (png(50_000, 50_000), "could be decompression bomb"),
    "all sides": (png(2**31 - 1, 2**31 - 1), "could be decompression bomb"),
    "text": (png(8, 8, chunk(b"zTXt", b"a\0\0" + TEXT)), "Decompressed data too large"),
    "international text": (png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + TEXT)), "Decompressed data too large"),
    "profile": (png(8, 8, chunk(b"iCCP", b"a\0\0" + TEXT)), "Decompressed data too large"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_png_that_would_fill_the_memory(case: str) -> None:
    content, words = BOMBS[case]
    assert len(content) < 200_000
    with pytest.raises(UnreadableImage, match=words):
        read_rgb(io.BytesIO(content), case)


def test_postscript_instead_of_an_image_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(UnreadableImage):
        read_rgb(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"), "0.png")
    assert not (tmp_path / "ran").exists()


# --- precomputed latents


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    manifest = Manifest(tmp_path, "images", ".safetensors")
    described = {"channels": 3, "resolution": 8, "num_classes": 0, "label_names": []}
    manifest.begin("train", {"encoder_sha256": "0" * 64, "flips": False, "images_as": described})
    path = tmp_path / "train-00000.safetensors"
    content = {"labels": [-1, -1], "keys": ["a", "b"], "texts": [], "origin": Origin("0" * 64)}
    write_latents(path, torch.zeros(2, 1, 1, 2, 2), **content)
    manifest.finish("train", [Shard.of(path, 2, {})])
    return tmp_path


def test_latents_that_are_pickled(kept: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable, tuple[str, str]]:
            return open, (str(kept / "exploded"), "w")

    path = kept / "train-00000.safetensors"
    torch.save({"z_clean": Bomb()}, path)
    entry = json.loads((kept / "manifest.json").read_text())
    entry["splits"]["train"]["shards"][0]["bytes"] = path.stat().st_size
    (kept / "manifest.json").write_text(json.dumps(entry))
    with pytest.raises(ValueError, match="not a shard of latents"):
        Latents("train", path=str(kept))[0]
    assert not (kept / "exploded").exists()


# --- a sweep's results

LINES = ["[" * 100_000, "1" * 5000, '{"point": 1e999}', "null", "\0", '{"point": "a", "point": []}']


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:16])
def test_a_line_that_is_no_row_is_set_aside(tmp_path: Path, line: str) -> None:
    (tmp_path / "results.jsonl").write_text(line + "\n")
    store = Store(tmp_path)
    with pytest.warns(UserWarning, match="not a complete row of results"):
        assert store.rows() == []
    assert store.damaged == [1]
