"""The embedded pictures: rendered 3D emoji. Source and licence are in `shards/README.md`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import torch
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from ulzoo.data.images.name_captions import TOKENS, WIDTH, name_caption
from ulzoo.data.source import DataContract, TensorSource, check_split

SHA256 = {
    "emoji3d-64-train.tar": "c70a991131e79a4a9729f00b6a4c5b1f65ad9c60a05f1dadd4deb163ac10a838",
    "emoji3d-64-val.tar": "4d9d864a9559aa1965f7188420aa72d57905ebd54993ecde671bb8c494b9ee9a",
    "emoji3d-video-64-train.tar": "7194f352a0d7879a224c98ffc634f6dcd9c595f1a18a39f3a75ab90c8472e265",
    "emoji3d-video-64-val.tar": "f4691571604c63edc8b5db9eae64d507e14ba44ae1e36a33501416cdbdb98942",
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
    """Microsoft's Fluent emoji in 3D on white: 3,061 images to train and 327 to validate, in 9 categories.

    It ships in the package. The split is by emoji name, so skin tones of one emoji never straddle it. A split is
    decoded once, into memory (38 MB at 64×64), in the order of its shard.

    Args:
        split: "train" or "val".
        resolution: 64 as rendered, or 32, the averages of its 2×2 boxes.
        hflip: mirror every second training image at random.
        captions: give each image its Unicode name, every word as a vector of its spelling: see
            `ulzoo.data.images.name_captions`. It stands in for a text encoder, and is none.
        classes: only the images of these labels, which keep their numbers; null for all.

    Raises:
        ValueError: another resolution, unknown classes, or a shard that is not the one released.
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
        images, labels, keys = [], [], []
        for sample in read_shard(f"emoji3d-64-{split}.tar"):
            if classes is not None and sample["cls"] not in classes:
                continue
            images.append(np.asarray(sample["webp"].reduce(64 // resolution)))
            labels.append(sample["cls"])
            keys.append(sample["__key__"])
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()  # (N, 3, H, W)
        text = [name_caption(key) for key in keys] if captions else None
        super().__init__(pixels, labels, keys, contract, hflip, text)

    @classmethod
    def describe(cls, *, resolution: int, captions: bool, classes: tuple[int, ...] | None, **_: object) -> DataContract:
        """The contract of these keys. Raises ValueError on a resolution other than 32 or 64, or unknown classes."""
        if resolution not in (32, 64):
            raise ValueError(f"resolution must be 32 or 64, not {resolution}")
        if classes is not None and (not classes or not set(classes) <= set(range(len(LABEL_NAMES)))):
            raise ValueError(
                f"classes must be labels from 0 to {len(LABEL_NAMES) - 1}, one or more, or null for all, "
                f"not {list(classes)}"
            )
        tokens, width = (TOKENS, WIDTH) if captions else (0, 0)
        return DataContract(3, resolution, len(LABEL_NAMES), LABEL_NAMES, text_tokens=tokens, text_width=width)


def read_shard(name: str) -> Iterator[dict[str, Any]]:
    """The samples of a shipped shard in its order, once its SHA-256 is found right.

    Each has `__key__`, the label `cls`, and `webp`, a 64×64 RGB image, or `mp4`, the bytes of a video.
    """
    path = files("ulzoo.data") / "embedded" / name
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise ValueError(
            f"{path}: SHA-256 is {found[:12]}…, not {SHA256[name][:12]}…: the file is damaged, reinstall ulzoo"
        )
    members = tar_file_expander([{"url": name, "stream": io.BytesIO(content)}])
    yield from webdataset.decode("pil")(group_by_keys(members))
