"""Images in tar files: WebDataset shards, read at random."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import ClassVar

import numpy as np

from ulzoo.data.images.caption_file import read_text
from ulzoo.data.images.decode import UnreadableImage, read_rgb
from ulzoo.data.images.source import ImageSource
from ulzoo.data.source import Sample
from ulzoo.data.storage.remote import place
from ulzoo.data.storage.shard_index import ShardIndex, open_index
from ulzoo.data.storage.shards import bad_label, find_shards, label_names, read_part

LARGEST = 2**28  # bytes of an image; it is read whole


class WebDataset(ImageSource):
    """WebDataset shards of images: `root/train-*.tar` and `root/val-*.tar` with `KEY.jpg`, .png or .webp and `KEY.cls`.

    `KEY.cls` holds the label as ASCII digits; `root/labels.json` may hold a list of the labels' names. `KEY.npy` holds
    a caption as `ImageFolder`'s does. The tars are looked through once, which makes an index of them that is kept;
    images are then read at random, so every one comes once an epoch in the seed's order, whatever the workers. They are
    never unpacked: a member's name is only its key. A shard that is damaged is an error; `ulzoo prepare` makes shards.
    `root` may be a URL, of which parts are asked for: see `ulzoo.data.storage.remote`.

    Images are decoded as they are asked for: see `read_rgb` and `square` in `ulzoo.data.images.decode` for colours and sizes.

    Args:
        split: "train" or "val".
        root: the folder of shards, or its URL: s3://…, gs://…, https://….
        resolution: side of the square that an image is resized and cropped to.
        hflip: mirror every second training image at random.
        num_classes: how many labels there are; null to leave them unread.
        skip_unreadable: leave out, with a warning, the images that cannot be read; otherwise they are an error.
        text_tokens: token embeddings of a caption that are used; null for images without captions.
        text_width: values of an embedding; null for images without captions.

    Raises:
        ValueError: no shards, a shard missing, damaged or with a key twice, an image without a label below
            `num_classes` or without a caption, a labels.json that does not fit, or keys that make no sense.
    """

    hint: ClassVar[str] = "`ulzoo prepare image_folder` makes them of a folder of images"

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
        folder = place(root)
        shards = find_shards(folder, split, self.hint)
        names = () if num_classes is None else label_names(folder / "labels.json", num_classes)
        self.index = open_index(folder, split, shards)
        if not len(self.index.rows):
            raise ValueError(f"{folder}: no images (KEY.jpg, .png or .webp) in its {len(shards)} {split} shards")
        if num_classes is not None:
            _check_labels(self.index, num_classes)
        if text_tokens and (without := np.flatnonzero(self.index.column("text_size") < 0)).size:
            shard, name, *_ = self.index.image(int(without[0]))
            raise ValueError(f"{shard}: {name} has no caption KEY.npy beside it ({without.size} of {len(self)})")
        self.contract = replace(contract, label_names=names)
        self.hflip, self.skips_unreadable = hflip, skip_unreadable

    def __len__(self) -> int:
        return len(self.index.rows)

    def __getitem__(self, index: int) -> Sample:
        """Raises Unreadable, a ValueError that names the image; ValueError where its shard has changed meanwhile."""
        shard, name, part, text_part, label = self.index.image(index)
        if max(part.size, text_part.size if text_part else 0) > LARGEST:
            raise UnreadableImage(f"{shard}: {name}: larger than {LARGEST >> 20} MiB")
        image = read_rgb(BytesIO(read_part(shard, part)), f"{shard}: {name}")
        text = None
        if self.contract.text_tokens:
            assert text_part is not None
            content = BytesIO(read_part(shard, text_part))
            text = read_text(content, self.contract.text_width, self.contract.text_tokens, f"{shard}: {name}'s .npy")
        label = label if self.contract.num_classes else -1
        return Sample(self.pixels(image), label, self.index.keys[index], text)


def _check_labels(index: ShardIndex, num_classes: int) -> None:
    labels = index.column("label")
    if (wrong := np.flatnonzero((labels < 0) | (labels >= num_classes))).size:
        first = int(wrong[0])
        raise bad_label(index.image(first)[0], index.keys[first], index.label_part(first), num_classes)
