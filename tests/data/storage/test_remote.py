"""Shards behind a URL: a web server of byte ranges, with and without a listing, and what it may do wrong."""

import re
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import islice
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch
from fsspec.registry import known_implementations
from PIL import Image

from ulzoo.data import WebDataset, batches, in_order
from ulzoo.data.prepare.images import ImageEncoding, prepare_image_folder
from ulzoo.data.storage import remote, shard_index
from ulzoo.data.storage.remote import RemotePath

IMAGES, SIDE = 12, 8
Served = tuple[str, SimpleNamespace, Path]


class Ranges(SimpleHTTPRequestHandler):
    """Files of a folder by byte ranges; how it misbehaves is in `server.faults`."""

    def log_message(self, *args: object) -> None:
        pass

    def list_directory(self, path: object) -> None:
        if self.server.faults.listed:  # type: ignore[attr-defined]
            return super().list_directory(path)  # type: ignore[arg-type,return-value]
        self.send_error(403)

    def send_head(self) -> BytesIO | None:  # type: ignore[override]
        faults, path = self.server.faults, Path(self.translate_path(self.path))  # type: ignore[attr-defined]
        faults.asked.append(f"{self.command} {self.path}")
        if path.is_dir():
            return super().send_head()  # type: ignore[return-value]
        if faults.failures and self.command == "GET":
            faults.failures -= 1
            self.send_error(503)
            return None
        if not path.is_file():
            self.send_error(404)
            return None
        content = path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if faults.ranges else None
        self.send_response(206 if span else 200)
        if span:
            first, last = int(span[1]), min(int(span[2]), len(content) - 1)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes" if faults.ranges else "none")
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.end_headers()
        return BytesIO(content[: -len(content) // 2] if faults.cut and span else content)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of two classes in three shards, as `ulzoo prepare` makes them."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i in range(IMAGES):
        path = root / "pictures" / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    (root / "pictures" / "val").mkdir()
    options = {"classes": True, "val_fraction": 0.5, "images_per_shard": 4, "workers": 1}
    prepare_image_folder(root / "pictures", root / "shards", "train", ImageEncoding(SIDE), **options)  # type: ignore[arg-type]
    return root / "shards"


@pytest.fixture
def served(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The URL of a copy of the shards, what is wrong with its server, and the copy."""
    folder = Path(shutil.copytree(prepared, tmp_path / "served"))
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder)))
    faults = SimpleNamespace(listed=True, ranges=True, cut=False, failures=0, asked=[])
    server.faults = faults  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", faults, folder
    server.shutdown()
    server.server_close()


def opened(root: object) -> WebDataset:
    return WebDataset("train", root=str(root), resolution=SIDE, num_classes=2)


def refused(message: str, ask: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ask()
    assert str(error.value).isprintable()


def the_same(a: WebDataset, b: WebDataset) -> bool:
    pairs = zip(map(a.__getitem__, range(IMAGES)), map(b.__getitem__, range(IMAGES)), strict=True)
    return all(x.key == y.key and x.label == y.label and torch.equal(x.pixels, y.pixels) for x, y in pairs)


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_read_is_what_lies_there(
    prepared: Path, served: Served, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    """The index of `ulzoo prepare` is taken, and only parts of shards are asked for."""
    url, faults, _ = served
    faults.listed = listed
    monkeypatch.setattr(shard_index, "_look_through", None)
    source = opened(url)
    assert not [asked for asked in faults.asked if asked.startswith("GET") and asked.endswith(".tar")]
    assert the_same(source, opened(prepared)) and source.label_names == ("a", "b")
    assert str(source.index.shards[0]) == f"{url}/train-00000.tar"


def test_shards_of_others_are_looked_through_once(prepared: Path, served: Served) -> None:
    url, faults, folder = served
    for name in ("manifest.json", ".index-train.npz", "labels.json"):
        (folder / name).unlink()
    source = opened(url)
    assert the_same(source, opened(prepared)) and source.label_names == ()
    faults.asked.clear()
    assert len(opened(url)) == IMAGES  # known by size and Last-Modified
    assert not [asked for asked in faults.asked if asked.startswith("GET") and asked.endswith(".tar")]
    faults.listed = False
    refused(r"no shards in it \(expected train-\*\.tar\)", lambda: opened(url))


def test_workers_have_connections_of_their_own(prepared: Path, served: Served) -> None:
    source = opened(served[0])
    assert source[0].key  # this process has one already
    expected = list(islice(batches(opened(prepared), 5, seed=1), 4))
    for a, b in zip(islice(batches(source, 5, seed=1, workers=2), 4), expected, strict=True):
        assert a["key"] == b["key"] and torch.equal(a["x"], b["x"])


def test_any_file_system_of_fsspec_will_do(prepared: Path) -> None:
    system = fsspec.filesystem("memory")
    try:
        system.put(str(prepared), "/shards", recursive=True)
        assert the_same(opened("memory://shards"), opened(prepared))
    finally:
        system.rm("/shards", recursive=True)
    assert the_same(opened(prepared.as_uri()), opened(prepared))


def test_what_fails_for_a_moment_is_tried_again(served: Served) -> None:
    url, faults, _ = served
    source = opened(url)
    faults.failures = 2
    assert source[3].key
    faults.failures = 3
    refused(r"train-0000\d\.tar: 503", lambda: source[3])


def test_what_goes_wrong_is_named(served: Served) -> None:
    url, faults, folder = served
    source = opened(url)
    faults.cut = True
    refused(r"train-0000\d\.tar: .*(payload|[Cc]onnection|disconnected|cut short)", lambda: source[0])
    faults.cut, faults.ranges = False, False
    refused(r"the server sends whole files where a part is asked for", lambda: source[0])
    faults.ranges = True
    (folder / "train-00001.tar").unlink()
    refused(rf"{url}/train-00001\.tar: no such file, or not for you \(.*\)", lambda: list(in_order(source, 12)))
    refused(r"train-00001\.tar is missing", lambda: opened(url))
    faults.listed = False
    refused(r"train-00001\.tar: no such file", lambda: opened(url))
    refused(r"http://.*/nowhere: no shards in it", lambda: opened(f"{url}/nowhere"))


def test_a_host_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    refused(rf"{url}/.*: .*(connect|Connect)", lambda: opened(url))
    refused(r"find_conflicts://x/.*: Protocol not known: find_conflicts", lambda: opened("find_conflicts://x"))
    monkeypatch.setitem(known_implementations, "cloud", {"class": "no_cloud.Files", "err": "Install x"})
    refused(r"cloud://x/.*: Install x; .*pip install 'ulzoo\[remote\]'", lambda: opened("cloud://x"))


def test_a_file_is_read_from_front_to_back_by_blocks(
    prepared: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, faults, _ = served
    monkeypatch.setattr(remote, "BLOCK", 1000)
    content = (prepared / "train-00000.tar").read_bytes()
    with RemotePath(f"{url}/train-00000.tar").open() as file:
        assert file.read(10) == content[:10] and file.seek(3000) == 3000
        assert file.read(2500) == content[3000:5500] and file.seek(-4, 2) == len(content) - 4
        assert file.read() == content[-4:]
    assert len([asked for asked in faults.asked if asked.startswith("GET")]) <= 5
