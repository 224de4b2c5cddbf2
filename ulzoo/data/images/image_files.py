"""A list of image files, such as those that a command line names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ulzoo.data.fingerprint import describe_files
from ulzoo.data.images.decode import read_rgb
from ulzoo.data.images.image_folder import ImageSource
from ulzoo.data.source import DataContract, ListedExample, Sample


class ImageFiles(ImageSource):
    """Listed image files, without labels and captions; every split is all of them.

    The key of an image is its path relative to the folder that all are in.

    Args:
        split: of no effect.
        paths: the files, relative to the working directory.
        resolution: side of the square that images are resized and cropped to, in pixels.
        hflip: mirror training images with probability 1/2.

    Raises:
        ValueError: no files, or one that does not exist.
    """

    def __init__(self, split: str, *, paths: tuple[str, ...], resolution: int, hflip: bool = True) -> None:
        if not paths:
            raise ValueError("paths is empty: give at least one file")
        self.contract = self.describe(resolution=resolution)
        self.hflip = hflip
        self.paths = [str(Path(path).expanduser()) for path in paths]
        for path in self.paths:
            if not os.path.isfile(path):
                raise ValueError(f"{path}: {'is a folder, not an image' if os.path.isdir(path) else 'no such file'}")
        absolute = [os.path.abspath(path) for path in self.paths]
        folder = os.path.commonpath([os.path.dirname(path) for path in absolute])
        self.keys = [Path(path).relative_to(folder).as_posix() for path in absolute]

    @classmethod
    def describe(cls, *, resolution: int, **_: object) -> DataContract:
        return super().describe(resolution=resolution, num_classes=None, text_tokens=None, text_width=None)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Raises Unreadable, a ValueError that names the file."""
        return Sample(self.pixels(read_rgb(self.paths[index])), -1, self.keys[index])

    def list_examples(self, count: int) -> Iterable[ListedExample]:
        for path, key in zip(self.paths[:count], self.keys, strict=False):
            yield describe_files(key, -1, path)
