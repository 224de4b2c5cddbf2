"""The interface of all sources of images and video clips."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class DataContract:
    """The shape of a source's images or clips, the meaning of their labels and the size of their captions.

    Args:
        channels: 3 for RGB, 1 for greyscale.
        resolution: side of the square images in pixels.
        num_classes: labels are 0 ... num_classes - 1; 0 if there are no labels and every label is -1.
        label_names: one name per class; () where they are only known once the data is read.
        frames: frames per clip; None for images.
        frame_rate: frames per second of a clip; None for images, and where it differs between videos.
        text_tokens: token embeddings per caption after truncation and padding; 0 if there are no captions.
        text_width: dimension of a token embedding; 0 if there are no captions.
    """

    channels: int
    resolution: int
    num_classes: int
    label_names: tuple[str, ...] = ()
    frames: int | None = None
    frame_rate: float | None = None
    text_tokens: int = 0
    text_width: int = 0

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) of an image or (T, H, W) of a clip."""
        time = () if self.frames is None else (self.frames,)
        return *time, self.resolution, self.resolution

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image or (C, T, H, W) of a clip."""
        return self.channels, *self.size


SPLITS = ("train", "val")
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".jpe", ".jfif", ".mpo", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".avif", ".avifs"),
    *(".tga", ".icb", ".vda", ".vst", ".ico", ".dds"),
)
"""Suffixes of images in the formats that `ulzoo.data.images.decode` decodes, in lower case."""


class Sample(NamedTuple):
    """One example of a source.

    Attributes:
        pixels: uint8 (C, H, W) or, for video, (C, T, H, W).
        label: number of the class; -1 if there is none.
        key: name of the example, as in messages.
        text: (L, text_width) token embeddings of the caption, where L may differ between examples; None if the contract
            has no text.
    """

    pixels: Tensor
    label: int
    key: str
    text: Tensor | None = None


class Placement(NamedTuple):
    """Where a clip lies in a video.

    Attributes:
        position: in time, from 0 (first) to below 1 (last); None for the middle.
        crop: of the square along the longer side of the pictures, from 0 (left or top) to 1 (right or bottom).
    """

    position: float | None = None
    crop: float = 0.5


MIDDLE = Placement()


class ListedExample(NamedTuple):
    """What is known of an example without decoding it.

    Attributes:
        key: its name.
        label: number of its class; -1 if there is none.
        size: bytes of its files; None if it has no files.
        written: a number that changes when its files are written again, such as the time of modification in ns.
    """

    key: str
    label: int
    size: int | None = None
    written: int = 0


class Unreadable(ValueError):
    """An example that cannot be read; the message names it and gives the reason in one line."""


def check_split(split: str) -> None:
    """Raise ValueError unless `split` is "train" or "val"."""
    if split not in SPLITS:
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")


class Source(Dataset[Sample]):
    """One split of a dataset: `source[i]` is a `Sample`, the same one on every access.

    A source is a component: its keyword-only parameters are the keys of a spec's `data`, and the classmethod
    `describe(**keys)` returns the `contract` of an instance with these keys without reading any data.

    Attributes:
        contract: what all samples have in common.
        hflip: whether `batches` may mirror the images.
        skips_unreadable: an example that cannot be read is replaced by the next one and reported as skipped; if False,
            it is an error.
        encoded: `pixels` of the samples are the floating-point latents z_clean of an encoder.
        in_memory: reading an example takes no time, so that a fingerprint covers all of them.
    """

    skips_unreadable: bool = False
    encoded: ClassVar[bool] = False
    in_memory: ClassVar[bool] = False

    describe: ClassVar[Callable[..., DataContract]]
    contract: DataContract
    hflip: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def draw(self, index: int, position: float) -> Sample:
        """An image, or the clip at a relative `position` in [0, 1) of a video, where `source[index]` is the middle."""
        return self[index]

    def place(self, index: int, placement: Placement) -> Sample:
        """An image, or the clip at a placement in a video. Where stored pictures are square, all crops are the same."""
        return self[index] if placement.position is None else self.draw(index, placement.position)

    def mirror(self, index: int, sample: Sample) -> Sample:
        """Flip a sample of this index horizontally."""
        return sample._replace(pixels=sample.pixels.flip(-1))

    def caption(self, index: int) -> str:
        """The caption of an example as text, whose token embeddings are its `text`.

        Raises:
            ValueError: the source has none; Unreadable: that of this example cannot be read.
        """
        raise ValueError(f"{type(self).__name__} has no captions as text, only embeddings; ImageFolder reads NAME.txt")

    def list_examples(self, count: int) -> Iterable[ListedExample] | None:
        """The first `count` examples as they are listed, without decoding any; None if the source has no list."""
        return None

    def content(self, index: int) -> bytes:
        """The content of an example, for its fingerprint: the same bytes on every machine. Raises Unreadable."""
        return sample_content(self[index])

    @property
    def channels(self) -> int:
        return self.contract.channels

    @property
    def num_classes(self) -> int:
        return self.contract.num_classes

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.contract.label_names

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image, (C, T, H, W) of a clip."""
        return self.contract.shape


def sample_content(sample: Sample) -> bytes:
    """The bytes of a sample's pixels and caption."""
    tensors = [sample.pixels] if sample.text is None else [sample.pixels, sample.text]
    return b"".join(
        f"{list(tensor.shape)}".encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for tensor in tensors
    )


class TensorSource(Source):
    """A source held in memory.

    Args:
        images: uint8 (N, C, H, W).
        labels: N labels, -1 for none.
        keys: N names.
        contract: of the images, labels and captions.
        hflip: whether `batches` may mirror the images.
        captions: N captions as token embeddings, if the contract has text.
    """

    in_memory: ClassVar[bool] = True

    def __init__(
        self,
        images: Tensor,
        *,
        labels: Sequence[int],
        keys: Sequence[str],
        contract: DataContract,
        hflip: bool = False,
        captions: Sequence[Tensor] | None = None,
    ) -> None:
        assert len(images) == len(labels) == len(keys), (len(images), len(labels), len(keys))
        assert (captions is None) == (contract.text_tokens == 0) and len(captions or images) == len(images)
        assert images.shape[1:] == contract.shape, (images.shape, contract.shape)
        self.images = images
        self.labels = labels
        self.keys = keys
        self.contract = contract
        self.hflip = hflip
        self.captions = captions

    def __len__(self) -> int:
        return len(self.images)

    def list_examples(self, count: int) -> Iterable[ListedExample]:
        return map(ListedExample, self.keys[:count], self.labels[:count])

    def __getitem__(self, index: int) -> Sample:
        text = self.captions[index] if self.captions else None
        return Sample(self.images[index], self.labels[index], self.keys[index], text)
