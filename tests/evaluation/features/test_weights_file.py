"""Published weights: which file is used, what is downloaded, and that no other file is ever read."""

import socket
from contextlib import suppress
from dataclasses import replace
from threading import Thread

import pytest
import torch

from ulzoo.evaluation.features.images import INCEPTION, find_inception
from ulzoo.evaluation.features.videos import I3D
from ulzoo.evaluation.features.weights_file import DetectorFile, checked, read_tensors
from ulzoo.files import retries
from ulzoo.files.atomic import sha256


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A published file that `file:` reaches, and torch's cache in another folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    path = tmp_path / "there.pth"
    torch.save({"weight": torch.ones(2)}, path)
    return DetectorFile("x", "the network (1 MB)", path.as_uri(), sha256(path), "kept/x.pth", "y comes with a package")


def test_the_file_that_is_used(published, tmp_path):
    here = tmp_path / "here.pth"
    assert published.find(here) == (here, published.sha256)
    assert published.find(here, "ab", True) == (here, "ab")
    for words, args in {
        r"x needs the network \(1 MB\): --download fetches it, --detector FILE reads .* y comes with": (None,),
        "belongs to a file": (None, "ab", True),
    }.items():
        with pytest.raises(ValueError, match=words):
            published.find(*args)
    assert not (tmp_path / "cache").exists()


def test_a_requested_download_is_checked_and_cached(published, tmp_path):
    cached = tmp_path / "cache" / "kept" / "x.pth"
    with pytest.raises(OSError, match=f"SHA-256 {published.sha256}, not 00; it was not kept"):
        replace(published, sha256="00").find(None, download=True)
    assert not cached.exists()
    with pytest.raises(OSError, match=r"the network \(1 MB\) could not be fetched from file:///nowhere"):
        replace(published, url="file:///nowhere").find(None, download=True)
    assert published.find(None, download=True) == (cached, published.sha256)
    assert cached.read_bytes() == (tmp_path / "there.pth").read_bytes()
    assert [file.name for file in cached.parent.iterdir()] == ["x.pth"]
    assert replace(published, url="file:///nowhere").find(None) == (cached, published.sha256)  # from the cache


PART = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc"


@pytest.mark.parametrize("answer", [b"", PART, b"junk\r\n\r\n"])
def test_a_server_that_does_not_answer(published, tmp_path, monkeypatch, answer):
    """It is given up after three attempts, each announced, whether it is silent or stops within an answer."""
    monkeypatch.setattr(retries, "TIMEOUT", 0.2)
    monkeypatch.setattr(retries, "DELAYS", (0.01, 0.01))
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def accept():
            with suppress(OSError):
                while True:
                    connections.append(server.accept()[0])
                    connections[-1].sendall(answer)
                    if answer.startswith(b"junk"):
                        connections[-1].shutdown(socket.SHUT_WR)

        Thread(target=accept, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.pth"
        words = "junk" if answer.startswith(b"junk") else r"the server did not answer in time \(0\.2 s per read\)"
        with (
            pytest.warns(UserWarning, match=rf"{url}: {words}; trying again in 0\.01 s, attempt [23] of 3") as lines,
            pytest.raises(OSError, match=rf"the network \(1 MB\) could not be fetched from {url}: {words}"),
        ):
            replace(published, url=url).find(None, download=True)
    assert len(lines) == 2 and not (tmp_path / "cache" / "kept" / "x.pth").exists()


def test_only_a_file_of_that_hash_is_read(published, tmp_path):
    path = tmp_path / "there.pth"
    with checked(path, published.sha256.upper(), "weights") as digest:
        assert digest == published.sha256 and read_tensors(path)["weight"].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"absent: no such file"), checked(tmp_path / "absent", "00", "weights"):
        pytest.fail("it was read")
    with pytest.raises(ValueError, match=r"is .*, not 00; it was not loaded"), checked(path, "00", "weights"):
        pytest.fail("it was read")


@pytest.mark.parametrize("content", [{"run": print}, b"", b"junk"])
def test_a_file_with_other_content_is_named(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=r"x\.pth: not weights: .") as error, checked(path, sha256(path), "weights"):
        read_tensors(path)
    assert "\n" not in str(error.value)


def test_messages_name_a_metric_that_comes_with_a_package(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for find, words in ((find_inception, "fd_efficientnet_lite0 is"), (I3D.find, "fd_transnetv2 is")):
        with pytest.raises(ValueError, match=f"{words} a distance whose weights come with a package"):
            find(None, None, False)
    assert (tmp_path / INCEPTION.cached).name.endswith(f"{INCEPTION.sha256[:8]}.pth")
