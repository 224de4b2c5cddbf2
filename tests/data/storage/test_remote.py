"""Shards behind a URL: a web server with byte ranges, with and without listings, and its possible faults."""

import re
import shutil
import socket
import time
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
from ulzoo.data.prepare.pack import PackConfig
from ulzoo.data.storage import remote, shard_index
from ulzoo.data.storage.remote import RemotePath
from ulzoo.files import retries

IMAGES, SIDE = 12, 8
Served = tuple[str, SimpleNamespace, Path]


class Ranges(SimpleHTTPRequestHandler):
    """Serves files of a folder by byte ranges, with the faults in `server.faults`."""

    def log_message(self, *args: object) -> None:
        pass

    def list_directory(self, path: object) -> None:
        if self.server.faults.listed:  # type: ignore[attr-defined]
            return super().list_directory(path)  # type: ignore[arg-type,return-value]
        self.send_error(403)

    def send_head(self) -> BytesIO | None:  # type: ignore[override]
        faults, path = self.server.faults, Path(self.translate_path(self.path))  # type: ignore[attr-defined]
        faults.requests.append(f"{self.command} {self.path}")
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
    """Twelve images of two classes in three shards written by `ulzoo prepare`."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i in range(IMAGES):
        path = root / "pictures" / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    (root / "pictures" / "val").mkdir()
    config = PackConfig(root / "shards", "train", ImageEncoding(SIDE), per_shard=4)
    prepare_image_folder(root / "pictures", config, classes=True, val_fraction=0.5)
    return root / "shards"


@pytest.fixture
def served(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The URL of a copy of the shards, the faults of its server, and the copy."""
    folder = Path(shutil.copytree(prepared, tmp_path / "served"))
    monkeypatch.setattr(retries, "DELAYS", (0.01, 0.01))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder)))
    faults = SimpleNamespace(listed=True, ranges=True, cut=False, failures=0, requests=[])
    server.faults = faults  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", faults, folder
    server.shutdown()
    server.server_close()


def opened(root: object) -> WebDataset:
    return WebDataset("train", root=str(root), resolution=SIDE, num_classes=2)


def refused(message: str, function: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message) as error:
        function()
    assert str(error.value).isprintable()


def same_samples(a: WebDataset, b: WebDataset) -> bool:
    pairs = zip(map(a.__getitem__, range(IMAGES)), map(b.__getitem__, range(IMAGES)), strict=True)
    return all(x.key == y.key and x.label == y.label and torch.equal(x.pixels, y.pixels) for x, y in pairs)


@pytest.mark.parametrize("listed", [True, False])
def test_remote_shards_equal_local_ones(
    prepared: Path, served: Served, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    """The index of `ulzoo prepare` is used, and shards are read by ranges only."""
    url, faults, _ = served
    faults.listed = listed
    monkeypatch.setattr(shard_index, "_scan", None)
    source = opened(url)
    assert not [line for line in faults.requests if line.startswith("GET") and line.endswith(".tar")]
    assert same_samples(source, opened(prepared)) and source.label_names == ("a", "b")
    assert str(source.index.shards[0]) == f"{url}/train-00000.tar"


def test_shards_in_s3_equal_local_ones(prepared: Path, s3: RemotePath) -> None:
    for path in prepared.iterdir():
        (s3 / path.name).upload(path)
    assert same_samples(opened(s3), opened(prepared))


def test_shards_without_an_index_are_scanned_once(prepared: Path, served: Served) -> None:
    url, faults, folder = served
    for name in ("manifest.json", ".index-train.npz", "labels.json"):
        (folder / name).unlink()
    source = opened(url)
    assert same_samples(source, opened(prepared)) and source.label_names == ()
    faults.requests.clear()
    assert len(opened(url)) == IMAGES  # identified by size and Last-Modified
    assert not [line for line in faults.requests if line.startswith("GET") and line.endswith(".tar")]
    faults.listed = False
    refused(r"no shards in it \(expected train-\*\.tar\)", lambda: opened(url))


def test_workers_open_their_own_connections(prepared: Path, served: Served) -> None:
    source = opened(served[0])
    assert source[0].key  # this process has a connection
    expected = list(islice(batches(opened(prepared), 5, seed=1), 4))
    for a, b in zip(islice(batches(source, 5, seed=1, workers=2), 4), expected, strict=True):
        assert a["key"] == b["key"] and torch.equal(a["x"], b["x"])


def test_other_file_systems_of_fsspec(prepared: Path) -> None:
    system = fsspec.filesystem("memory")
    try:
        system.put(str(prepared), "/shards", recursive=True)
        assert same_samples(opened("memory://shards"), opened(prepared))
    finally:
        system.rm("/shards", recursive=True)
    assert same_samples(opened(prepared.as_uri()), opened(prepared))


def test_temporary_failures_are_retried(served: Served) -> None:
    url, faults, _ = served
    source = opened(url)
    faults.failures = 2
    with pytest.warns(
        UserWarning, match=r"train-0000\d\.tar: 503.*; trying again in 0\.01 s, attempt [23] of 3"
    ) as lines:
        assert source[3].key
    assert len(lines) == 2
    faults.failures = 3
    with pytest.warns(UserWarning, match="attempt 3 of 3"):
        refused(r"train-0000\d\.tar: 503", lambda: source[3])


class Stalled:
    """A server that accepts connections and, after `answer`, sends nothing."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer, self.listener = answer, socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            connection.sendall(self.answer)


PART = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1000\r\nContent-Range: bytes 0-999/9999\r\n\r\nabc"


@pytest.mark.parametrize("answer", [b"", PART])
def test_a_stalled_server(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """It is given up after three attempts, each announced, whether it never answers or stops in an answer."""
    monkeypatch.setattr(retries, "TIMEOUT", 0.2)
    monkeypatch.setattr(retries, "DELAYS", (0.01, 0.01))
    server, start = Stalled(answer), time.monotonic()
    with pytest.warns(UserWarning, match="the server did not answer in time") as lines:
        refused(
            rf"{server.url}/x\.tar: the server did not answer in time \(0\.2 s per read\)",
            lambda: RemotePath(f"{server.url}/x.tar").read(0, 1000),
        )
        if not answer:
            refused(rf"{server.url}/\S+: .*did not answer in time", lambda: opened(server.url))
    assert len(lines) == (2 if answer else 4) and time.monotonic() - start < 8
    server.listener.close()


def test_faults_are_named(served: Served) -> None:
    url, faults, folder = served
    source = opened(url)
    faults.cut = True
    with pytest.warns(UserWarning, match="trying again"):
        refused(r"train-0000\d\.tar: .*(payload|[Cc]onnection|disconnected|truncated)", lambda: source[0])
    faults.cut, faults.ranges = False, False
    refused(r"the server sends entire files when asked for a part", lambda: source[0])
    faults.ranges = True
    (folder / "train-00001.tar").unlink()
    refused(
        rf"{url}/train-00001\.tar: no such file, or no permission to read it \(.*\)", lambda: list(in_order(source, 12))
    )
    refused(r"train-00001\.tar is missing", lambda: opened(url))
    faults.listed = False
    refused(r"train-00001\.tar: no such file", lambda: opened(url))
    refused(r"http://.*/nowhere: no shards in it", lambda: opened(f"{url}/nowhere"))


def test_an_unreachable_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "DELAYS", (0.01, 0.01))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.warns(UserWarning, match=rf"{url}/.*trying again"):
        refused(rf"{url}/.*: .*(connect|Connect)", lambda: opened(url))
    refused(r"unknown://x/.*: Protocol not known: unknown", lambda: opened("unknown://x"))
    monkeypatch.setitem(known_implementations, "cloud", {"class": "no_cloud.Files", "err": "Install x"})
    refused(r"cloud://x/.*: Install x; .*pip install 'ulzoo\[remote\]'", lambda: opened("cloud://x"))


def test_sequential_reads_use_blocks(prepared: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    url, faults, _ = served
    monkeypatch.setattr(remote, "BLOCK", 1000)
    content = (prepared / "train-00000.tar").read_bytes()
    with RemotePath(f"{url}/train-00000.tar").open() as file:
        assert file.read(10) == content[:10] and file.seek(3000) == 3000
        assert file.read(2500) == content[3000:5500] and file.seek(-4, 2) == len(content) - 4
        assert file.read() == content[-4:]
    assert len([line for line in faults.requests if line.startswith("GET")]) <= 5
