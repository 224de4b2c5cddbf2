"""The embedded images: rendered 3D emoji. Source and licence are described in `ulzoo/data/embedded/README.md`."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import torch
import webdataset
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from ulzoo.data.images.name_captions import TOKENS, WIDTH, name_caption, name_words
from ulzoo.data.source import DataContract, TensorSource, check_split

SHA256 = {
    "emoji3d-64-train.tar.gz": "640735b546257e8b123bb8810055317b3ea87231da23645195e2ac92f6a9f914",
    "emoji3d-64-val.tar.gz": "aec7d6565c95ef8f3962562ab08832ecf9e2320f1f3a4bfad71033f522df1862",
    "emoji3d-video-64-train.tar.gz": "61049d43ec6cf59b353d719a23334580ac9ce739d1f3f15f923193ca9b79eed2",
    "emoji3d-video-64-val.tar.gz": "0667d853071df22cbdee7fcbacdedda1bca07a805df3779c40853f539c8aaa4b",
}

LABEL_NAMES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)


class Emoji3D(TensorSource):
    """Microsoft's Fluent emoji in 3D on white: 3,061 training images and 327 in val, in 9 categories.

    It is part of the package. The split is by emoji name, so all skin tones of an emoji are in the same split. A split
    is decoded once per process, into memory (38 MB at 64×64), in the order of its shard.

    Args:
        split: "train" or "val".
        resolution: 64 as rendered, or 32, the averages of its 2×2 boxes.
        hflip: mirror training images with probability 1/2.
        captions: caption each image with its Unicode name, one vector per word computed from its spelling (see
            `ulzoo.data.images.name_captions`). This replaces a text encoder in demos and tests.
        classes: only images with these labels, which keep their numbers; null for all.

    Raises:
        ValueError: an unsupported resolution, unknown classes, or a damaged shard.
    """

    def __init__(
        self,
        split: str,
        *,
        resolution: int = 64,
        hflip: bool = True,
        captions: bool = False,
        classes: tuple[int, ...] | None = None,
    ) -> None:
        check_split(split)
        contract = self.describe(resolution=resolution, captions=captions, classes=classes)
        pixels, labels, keys = _decoded(split, resolution)
        if classes is not None:
            indices = [i for i, label in enumerate(labels) if label in classes]
            pixels, labels, keys = pixels[indices], [labels[i] for i in indices], [keys[i] for i in indices]
        text = [name_caption(key) for key in keys] if captions else None
        super().__init__(pixels, labels=labels, keys=keys, contract=contract, hflip=hflip, captions=text)

    def caption(self, index: int) -> str:
        """The words of the emoji's name, of which `text` has at most 12."""
        return " ".join(name_words(self.keys[index]))

    @classmethod
    def describe(cls, *, resolution: int, captions: bool, classes: tuple[int, ...] | None, **_: object) -> DataContract:
        """The contract for these keys. Raises ValueError for a resolution other than 32 or 64, or unknown classes."""
        if resolution not in (32, 64):
            raise ValueError(f"resolution must be 32 or 64, not {resolution}")
        if classes is not None and (not classes or not set(classes) <= set(range(len(LABEL_NAMES)))):
            last = len(LABEL_NAMES) - 1
            raise ValueError(
                f"classes must be one or more labels from 0 to {last}, or null for all, not {list(classes)}"
            )
        tokens, width = (TOKENS, WIDTH) if captions else (0, 0)
        return DataContract(3, resolution, len(LABEL_NAMES), LABEL_NAMES, text_tokens=tokens, text_width=width)


@functools.lru_cache(maxsize=2)
def _decoded(split: str, resolution: int) -> tuple[Tensor, list[int], list[str]]:
    """Images (N, 3, H, W), labels and keys of a split. Sources of a process share them and do not change them."""
    samples = list(read_shard(f"emoji3d-64-{split}.tar.gz"))
    images = np.stack([np.asarray(sample["webp"].reduce(64 // resolution)) for sample in samples])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return pixels, [sample["cls"] for sample in samples], [sample["__key__"] for sample in samples]


def read_shard(name: str) -> Iterator[dict[str, Any]]:
    """Yield the samples of an embedded shard in order, after verifying its SHA-256.

    A sample has `__key__`, the label `cls`, and `webp`, a 64×64 RGB image, or `mp4`, the bytes of a video.
    """
    path = files("ulzoo.data") / "embedded" / name
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise ValueError(
            f"{path}: SHA-256 is {digest[:12]}…, not {SHA256[name][:12]}…: the file is damaged, reinstall ulzoo"
        )
    members = tar_file_expander([{"url": name, "stream": io.BytesIO(content)}])
    yield from webdataset.decode("pil")(group_by_keys(members))
