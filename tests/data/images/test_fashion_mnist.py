import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets

from ulzoo.data import FashionMNIST


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(folder: Path, suffix: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Four tiny IDX files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, n in (("train", 12), ("t10k", 5)):
        images, labels = rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = gzip.compress(idx(array)) if suffix else idx(array)
            (folder / f"{prefix}-{name}-ubyte{suffix}").write_bytes(content)
        arrays[prefix] = images, labels
    return arrays


@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_torchvision_s_layout_and_debian_s(tmp_path: Path, layout: str, suffix: str) -> None:
    arrays = write(tmp_path / layout, suffix)
    for split, prefix in (("train", "train"), ("val", "t10k")):
        images, labels = arrays[prefix]
        source = FashionMNIST(split, root=str(tmp_path), resolution=28)
        assert len(source) == len(images)
        assert np.array_equal(source.images[:, 0].numpy(), images)
        assert source.labels == labels.tolist()
        assert source.contract == FashionMNIST.describe(resolution=28, root=str(tmp_path))
        assert source.shape == (1, 28, 28) == tuple(source[0][0].shape)
        assert source.num_classes == 10
        assert source[3][2] == f"{prefix}-00003"


def test_agrees_with_torchvision(tmp_path: Path) -> None:
    write(tmp_path / "FashionMNIST" / "raw")
    theirs = torchvision.datasets.FashionMNIST(tmp_path, train=False)
    ours = FashionMNIST("val", root=str(tmp_path), resolution=28)
    assert torch.equal(ours.images[:, 0], theirs.data)
    assert ours.labels == theirs.targets.tolist()
    assert ours.label_names == tuple(theirs.classes)


def test_32_has_a_black_border(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    images = FashionMNIST("train", root=str(tmp_path)).images
    assert images.shape == (12, 1, 32, 32)
    assert np.array_equal(images[:, 0, 2:-2, 2:-2].numpy(), arrays["train"][0])
    assert images.sum() == arrays["train"][0].sum()


def test_missing_files_name_every_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", None)  # not even tried
    with pytest.raises(ValueError) as error:
        FashionMNIST("train", root=str(tmp_path))
    message = str(error.value)
    for part in (str(tmp_path / "FashionMNIST" / "raw"), "download: true", "dataset-fashion-mnist"):
        assert part in message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


def test_downloads_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: Path, download: bool) -> None:
        assert download
        write(root / "FashionMNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    assert len(FashionMNIST("train", root=str(tmp_path), download=True)) == 12


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: Path, download: bool) -> None:
        raise RuntimeError("Error downloading:\nTried http://example.org, got:\nno network")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    with pytest.raises(ValueError, match=r"could not be downloaded to .*raw: Error downloading: Tried .* no network"):
        FashionMNIST("train", root=str(tmp_path), download=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3", b"", "not a readable IDX file"),
        ("images-idx3", b"\0\0\x08\x03\0\0", "not a readable IDX file"),
        ("images-idx3", idx(np.zeros((12, 28, 28)))[:-1], "not an IDX file of 12×28×28 bytes"),
        ("images-idx3", idx(np.zeros((12, 8, 8))), "expected images of 28×28, not shape"),
        ("labels-idx1", idx(np.zeros(11)), "expected 12 labels from 0 to 9"),
        ("labels-idx1", idx(np.full(12, 10)), "expected 12 labels from 0 to 9"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write(tmp_path)
    path = tmp_path / f"train-{name}-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        FashionMNIST("train", root=str(tmp_path))
    assert str(path) in str(error.value)


def test_a_damaged_gzip_is_named(tmp_path: Path) -> None:
    write(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for content in (path.read_bytes()[:-100], b"not gzip"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: not a readable IDX file"):
            FashionMNIST("train", root=str(tmp_path))


def test_bad_resolution() -> None:
    with pytest.raises(ValueError, match="28 or 32, not 64"):
        FashionMNIST("train", root="/nowhere", resolution=64)
