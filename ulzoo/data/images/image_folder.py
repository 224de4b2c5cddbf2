"""A folder of the user's own images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from ulzoo.data.images.caption_file import check_text, read_text, text_path
from ulzoo.data.images.decode import read_rgb
from ulzoo.data.images.source import ImageSource
from ulzoo.data.source import Sample, Unreadable
from ulzoo.data.storage.class_folders import ClassFolders


class ImageFolder(ImageSource):
    """Images in a folder of the user's, one folder a class where there are classes (torchvision's layout).

    Splits, classes and labels are those of `ulzoo.data.storage.class_folders`: `root/train` and `root/val`, or a share of
    `root` held out. An image's key is its path below `root`.

    Images are decoded as they are asked for: see `read_rgb` and `square` in `ulzoo.data.images.decode` for colours and sizes.

    Captions are token embeddings that a text encoder of the user's made: NAME.npy beside each image NAME.jpg, an array
    (L, `text_width`) of float16 or float32, L being its own. The ones beyond `text_tokens` are cut off.

    Args:
        split: "train" or "val".
        root: the folder.
        resolution: side of the square that an image is resized and cropped to.
        hflip: mirror every second training image at random.
        num_classes: how many class folders there are; null for images without labels.
        val_fraction: share of the images held out where there are no folders train and val.
        verify: read every image through once before anything starts. Without it a damaged image is met only when its
            turn comes.
        skip_unreadable: leave out, with a warning, the images that cannot be read; otherwise they are an error.
        text_tokens: token embeddings of a caption that are used; null for images without captions.
        text_width: values of an embedding; null for images without captions.

    Raises:
        ValueError: no such folder, no images in it, not `num_classes` class folders, unreadable images or
            captions, or keys that make no sense.
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
            raise ValueError("skip_unreadable finds its images by verify: set verify to true")
        self.folders = ClassFolders(Path(root).expanduser(), "images", IMG_EXTENSIONS, num_classes, val_fraction)
        self.hflip = hflip
        self.contract = contract
        files, label_names = self.folders.split(split)
        if verify:
            files = self._verified(files, skip_unreadable)
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

    def _verified(self, files: Sequence[tuple[str, int]], skip_unreadable: bool) -> list[tuple[str, int]]:
        with ThreadPoolExecutor() as threads:
            errors = list(threads.map(self._error, (path for path, _ in files)))
        unreadable = [error for error in errors if error]
        if not unreadable:
            return list(files)
        count = f"{len(unreadable)} of {len(files)} images cannot be read"
        if len(unreadable) == len(files):
            raise ValueError(f"{count}; the first is {unreadable[0]}")
        if not skip_unreadable:
            raise ValueError(f"{count} (`skip_unreadable: true` leaves them out); the first is {unreadable[0]}")
        warnings.warn(f"{count} and are left out: {'; '.join(unreadable[:3])}", stacklevel=3)
        return [file for file, error in zip(files, errors, strict=True) if not error]

    def _error(self, path: str) -> str | None:
        """What is wrong with an image file, or its caption's, if anything."""
        try:
            read_rgb(path, fast=True)
            if self.contract.text_tokens:
                check_text(text_path(path), self.contract.text_width)
        except Unreadable as error:
            return str(error)
        return None
