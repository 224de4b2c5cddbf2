"""Sources that decode image files on access, and the simplest of them: a folder of images."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ulzoo.data.fingerprint import describe_files
from ulzoo.data.images.caption_file import CAPTION_SUFFIX, check_text, read_caption, read_text, text_path
from ulzoo.data.images.caption_file import SUFFIX as CAPTION
from ulzoo.data.images.decode import read_rgb, square
from ulzoo.data.source import IMAGE_SUFFIXES, DataContract, ListedExample, Sample, Source, Unreadable
from ulzoo.data.storage.class_folders import ClassFolders, check_num_classes


class ImageSource(Source):
    """Square RGB images with labels and captions; `contract` is the result of `describe`, plus the label names."""

    @classmethod
    def describe(
        cls, *, resolution: int, num_classes: int | None, text_tokens: int | None, text_width: int | None, **_: object
    ) -> DataContract:
        """The contract for these keys, without `label_names`, which are part of the data.

        Raises ValueError for a number below 1, or if only one of `text_tokens` and `text_width` is given.
        """
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, not {resolution}")
        check_num_classes(num_classes, "images")
        text = {"text_tokens": text_tokens, "text_width": text_width}
        for key, value in text.items():
            if value is None and any(text.values()):
                raise ValueError(f"{key} is missing: captions need both text_tokens and text_width")
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, or null for images without captions, not {value}")
        return DataContract(3, resolution, num_classes or 0, text_tokens=text_tokens or 0, text_width=text_width or 0)

    def pixels(self, image: Image.Image) -> Tensor:
        """Crop and resize an RGB image to uint8 (3, H, W), contiguous by channel, so that stacking is fast."""
        side = self.contract.resolution
        channels = [channel.tobytes() for channel in square(image, side).split()]
        return torch.frombuffer(bytearray().join(channels), dtype=torch.uint8).reshape(3, side, side)


class ImageFolder(ImageSource):
    """A folder of images, with one subfolder per class if there are classes (torchvision's layout).

    Splits, classes and labels are defined by `ulzoo.data.storage.class_folders`: `root/train` and `root/val`, or a
    held-out fraction of `root`. The key of an image is its path relative to `root`.

    Images are decoded on access; `read_rgb` and `square` in `ulzoo.data.images.decode` define colors and sizes.

    Captions are token embeddings computed by a text encoder of your choice: NAME.npy beside each image NAME.jpg, an
    array (L, `text_width`) of float16 or float32, where L may differ. Tokens beyond `text_tokens` are cut off.

    Args:
        split: "train", "val", or "all" images of the folder.
        root: the folder.
        resolution: side of the square that images are resized and cropped to, in pixels.
        hflip: mirror training images with probability 1/2.
        num_classes: number of class folders; null for images without labels.
        val_fraction: fraction of the images held out for val if there are no folders train and val.
        verify: read every image once when the source is opened. Without it, a damaged image is only noticed when it is
            used.
        skip_unreadable: skip images that cannot be read, with a warning; otherwise they are an error.
        text_tokens: maximum number of token embeddings per caption; null for images without captions.
        text_width: dimension of a token embedding; null for images without captions.

    Raises:
        ValueError: no such folder, no images in it, not `num_classes` class folders, unreadable images or captions, or
            keys out of range.
    """

    def __init__(
        self,
        split: str,
        *,
        root: str,
        resolution: int,
        hflip: bool = True,
        num_classes: int | None = None,
        val_fraction: float = 0.1,
        verify: bool = True,
        skip_unreadable: bool = False,
        text_tokens: int | None = None,
        text_width: int | None = None,
    ) -> None:
        contract = self.describe(
            resolution=resolution, num_classes=num_classes, text_tokens=text_tokens, text_width=text_width
        )
        if skip_unreadable and not verify:
            raise ValueError("skip_unreadable finds unreadable images by verify: set verify to true")
        captions = (CAPTION, CAPTION_SUFFIX) if text_tokens else (CAPTION,)
        self.folders = ClassFolders(
            Path(root).expanduser(), "images", IMAGE_SUFFIXES, num_classes, val_fraction, captions
        )
        self.hflip = hflip
        self.contract = contract
        files, label_names = self.folders.split(split)
        if verify:
            files = self._readable(files, skip_unreadable)
        self.paths = [path for path, _ in files]
        self.labels = [label for _, label in files]
        self.contract = replace(contract, label_names=label_names)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Raises Unreadable, a ValueError that names the file."""
        path = self.paths[index]
        pixels = self.pixels(read_rgb(path))
        tokens, width = self.contract.text_tokens, self.contract.text_width
        text = read_text(text_path(path), width, tokens) if tokens else None
        return Sample(pixels, self.labels[index], self.folders.key(path), text)

    def caption(self, index: int) -> str:
        """The text in NAME.txt beside the image."""
        return read_caption(self.paths[index])

    def list_examples(self, count: int) -> Iterable[ListedExample]:
        for path, label in zip(self.paths[:count], self.labels, strict=False):
            captions = [text_path(path)] if self.contract.text_tokens else []
            yield describe_files(self.folders.key(path), label, path, *captions)

    def _readable(self, files: Sequence[tuple[str, int]], skip_unreadable: bool) -> list[tuple[str, int]]:
        """The files that can be read; the others are an error or, with `skip_unreadable`, a warning."""
        with ThreadPoolExecutor() as threads:
            errors = list(threads.map(self._error, (path for path, _ in files)))
        unreadable = [error for error in errors if error]
        if not unreadable:
            return list(files)
        count = f"{len(unreadable)} of {len(files)} images cannot be read"
        if len(unreadable) == len(files):
            raise ValueError(f"{count}; the first is {unreadable[0]}")
        if not skip_unreadable:
            raise ValueError(f"{count} (`skip_unreadable: true` skips them); the first is {unreadable[0]}")
        warnings.warn(f"{count} and are skipped: {'; '.join(unreadable[:3])}", stacklevel=3)
        return [file for file, error in zip(files, errors, strict=True) if not error]

    def _error(self, path: str) -> str | None:
        """The error of an image file or of its caption; None if both can be read."""
        try:
            read_rgb(path, fast=True)
            if self.contract.text_tokens:
                check_text(text_path(path), self.contract.text_width)
        except Unreadable as error:
            return str(error)
        return None
