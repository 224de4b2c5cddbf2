"""Images in WebDataset shards (tar files), with random access."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from typing import ClassVar

import numpy as np

from ulzoo.data.images.caption_file import read_text
from ulzoo.data.images.decode import UnreadableImage, read_rgb
from ulzoo.data.images.image_folder import ImageSource
from ulzoo.data.source import ListedExample, Sample
from ulzoo.data.storage.remote import storage_path
from ulzoo.data.storage.shard_index import ShardIndex, open_index
from ulzoo.data.storage.shards import find_shards, label_error, read_label_names, read_range

MAX_BYTES = 2**28  # of an image, which is read at once


class WebDataset(ImageSource):
    """WebDataset shards of images: `root/train-*.tar` and `root/val-*.tar` with images `KEY.jpg` and `KEY.cls`.

    Images have one of the `IMAGE_SUFFIXES`. `KEY.cls` contains the label in ASCII digits, `root/labels.json` optionally
    a list of label names, and `KEY.npy` a caption in the format of `ImageFolder`. The shards are scanned once and their
    index is cached; images are then read by random access, so that every image is used once per epoch in the order
    given by the seed, for any number of workers. Shards are never unpacked to disk: the name of a member is only its
    key. A damaged shard is an error. `ulzoo prepare` writes shards. `root` may be a URL, read by HTTP ranges and their
    like: see `ulzoo.data.storage.remote`.

    Images are decoded on access; `read_rgb` and `square` in `ulzoo.data.images.decode` define colors and sizes.

    Args:
        split: "train" or "val".
        root: the folder of shards, or its URL: s3://…, gs://…, https://….
        resolution: side of the square that images are resized and cropped to, in pixels.
        hflip: mirror training images with probability 1/2.
        num_classes: number of labels; null to ignore labels.
        skip_unreadable: skip images that cannot be read, with a warning; otherwise they are an error.
        text_tokens: maximum number of token embeddings per caption; null for images without captions.
        text_width: dimension of a token embedding; null for images without captions.

    Raises:
        ValueError: no shards; a shard that is missing, damaged or has a duplicate key; an image without a label below
            `num_classes` or without a caption; a labels.json that does not match; or keys out of range.
    """

    hint: ClassVar[str] = "`ulzoo prepare image_folder` writes them from a folder of images"

    def __init__(
        self,
        split: str,
        *,
        root: str,
        resolution: int,
        hflip: bool = True,
        num_classes: int | None = None,
        skip_unreadable: bool = False,
        text_tokens: int | None = None,
        text_width: int | None = None,
    ) -> None:
        contract = self.describe(
            resolution=resolution, num_classes=num_classes, text_tokens=text_tokens, text_width=text_width
        )
        folder = storage_path(root)
        shards = find_shards(folder, split, self.hint)
        names = () if num_classes is None else read_label_names(folder / "labels.json", num_classes)
        self.index = open_index(folder, split, shards)
        if not len(self.index.rows):
            raise ValueError(
                f"{folder}: no images (KEY.jpg, .png, .webp, .gif, ...) in its {len(shards)} {split} shards"
            )
        if num_classes is not None:
            _check_labels(self.index, num_classes)
        if text_tokens and (missing := np.flatnonzero(self.index.column("text_size") < 0)).size:
            shard, name, *_ = self.index.image(int(missing[0]))
            raise ValueError(f"{shard}: {name} has no caption KEY.npy beside it ({missing.size} of {len(self)})")
        self.contract = replace(contract, label_names=names)
        self.hflip, self.skips_unreadable = hflip, skip_unreadable

    def __len__(self) -> int:
        return len(self.index.rows)

    def __getitem__(self, index: int) -> Sample:
        """Raises Unreadable, a ValueError that names the image; ValueError if its shard has changed since the scan."""
        shard, name, image_range, text_range, label = self.index.image(index)
        if max(image_range.size, text_range.size if text_range else 0) > MAX_BYTES:
            raise UnreadableImage(f"{shard}: {name}: larger than {MAX_BYTES >> 20} MiB")
        image = read_rgb(BytesIO(read_range(shard, image_range)), f"{shard}: {name}")
        text = None
        if self.contract.text_tokens:
            assert text_range is not None
            content = BytesIO(read_range(shard, text_range))
            text = read_text(content, self.contract.text_width, self.contract.text_tokens, f"{shard}: {name}'s .npy")
        label = label if self.contract.num_classes else -1
        return Sample(self.pixels(image), label, self.index.keys[index], text)

    def list_examples(self, count: int) -> Iterable[ListedExample]:
        written = [shard.stat().st_mtime_ns for shard in self.index.shards]
        columns = (self.index.column(name).tolist() for name in ("shard", "size", "text_size", "label"))
        for key, shard, size, text_size, label in zip(self.index.keys[:count], *columns, strict=False):
            size += max(text_size, 0) if self.contract.text_tokens else 0
            yield ListedExample(key, label if self.contract.num_classes else -1, size, written[shard])


def _check_labels(index: ShardIndex, num_classes: int) -> None:
    labels = index.column("label")
    if (wrong := np.flatnonzero((labels < 0) | (labels >= num_classes))).size:
        first = int(wrong[0])
        raise label_error(index.image(first)[0], index.keys[first], index.label_range(first), num_classes)
