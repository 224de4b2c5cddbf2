"""Fashion-MNIST (Xiao et al. 2017): greyscale images of clothes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ulzoo.data.source import DataContract, TensorSource, check_split
from ulzoo.files.retries import socket_timeout

LABEL_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


class FashionMNIST(TensorSource):
    """Fashion-MNIST: 60,000 greyscale training images, 10,000 test images as val, in 10 classes, in memory.

    Args:
        split: "train" or "val".
        root: folder with `FashionMNIST/raw/` in torchvision's layout, or with the IDX files themselves, plain or
            gzipped (Debian's dataset-fashion-mnist: /usr/share/datasets/fashion-mnist).
        download: download missing files into `root` through torchvision.
        resolution: 28 as published, or 32 with a border of two black pixels.
        hflip: mirror training images with probability 1/2.

    Raises:
        ValueError: an unsupported resolution; files that are missing, damaged or cannot be downloaded.
    """

    def __init__(
        self, split: str, *, root: str, download: bool = False, resolution: int = 32, hflip: bool = True
    ) -> None:
        check_split(split)
        contract = self.describe(resolution=resolution)
        prefix = "train" if split == "train" else "t10k"
        image_file, label_file = find_files(root, prefix, download)
        images, labels = read_idx(image_file), read_idx(label_file)
        if images.shape[1:] != (28, 28):
            raise ValueError(f"{image_file}: expected images of 28×28, not shape {tuple(images.shape)}")
        if labels.shape != images.shape[:1] or not len(labels) or labels.max() >= len(LABEL_NAMES):
            raise ValueError(f"{label_file}: expected {len(images)} labels from 0 to 9")
        pixels = pad(images[:, None], [(resolution - 28) // 2] * 4)  # (N, 1, H, W)
        keys = [f"{prefix}-{i:05d}" for i in range(len(pixels))]
        super().__init__(pixels, labels=labels.tolist(), keys=keys, contract=contract, hflip=hflip)

    @classmethod
    def describe(cls, *, resolution: int, **_: object) -> DataContract:
        """The contract for these keys. Raises ValueError for a resolution other than 28 or 32."""
        if resolution not in (28, 32):
            raise ValueError(f"resolution must be 28 or 32, not {resolution}")
        return DataContract(channels=1, resolution=resolution, num_classes=len(LABEL_NAMES), label_names=LABEL_NAMES)


def find_files(root: str, prefix: str, download: bool) -> tuple[Path, Path]:
    """The image file and the label file of a split, downloaded if they are missing and `download` is set."""
    raw = Path(root).expanduser() / "FashionMNIST" / "raw"

    def find() -> tuple[Path, Path] | None:
        for folder in (raw, raw.parent.parent):
            for suffix in ("", ".gz"):
                images = folder / f"{prefix}-images-idx3-ubyte{suffix}"
                labels = folder / f"{prefix}-labels-idx1-ubyte{suffix}"
                if images.is_file() and labels.is_file():
                    return images, labels
        return None

    paths = find()
    if paths is None and download:
        import torchvision.datasets  # takes two seconds

        try:
            with socket_timeout():
                torchvision.datasets.FashionMNIST(raw.parent.parent, download=True)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"Fashion-MNIST could not be downloaded to {raw}: {' '.join(str(error).split())}"
            ) from error
        paths = find()
    if paths is None:
        raise ValueError(
            f"no Fashion-MNIST in {raw}: set `download: true`, or install Debian's package dataset-fashion-mnist "
            "and set `root: /usr/share/datasets/fashion-mnist`"
        )
    return paths


def read_idx(path: Path) -> Tensor:
    """Read a uint8 tensor from an IDX file, gzipped if its suffix is .gz. Raises ValueError for any other content."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, dims = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dims}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{path}: not a readable IDX file ({error})") from error
    body = content[4 + 4 * dims :]
    if (zeros, kind) != (0, 8) or len(body) != math.prod(shape):
        raise ValueError(f"{path}: not an IDX file of {'×'.join(map(str, shape))} bytes")
    return torch.from_numpy(np.frombuffer(body, np.uint8).reshape(shape).copy())
