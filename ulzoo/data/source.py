"""What every source of images or video clips offers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class DataContract:
    """The shape of a source's images or clips, what their labels mean and how their captions come.

    Args:
        channels: 3 for RGB, 1 for grey.
        resolution: side of the square images in pixels.
        num_classes: labels are 0 ... num_classes - 1; 0 means that there are none and every label is -1.
        label_names: one name a class; () where only the data itself knows them.
        frames: frames of a clip; None for images.
        frame_rate: frames of a clip per second; None for images, and where it differs between videos.
        text_tokens: token embeddings that a caption is cut or padded to; 0 where there are no captions.
        text_width: values of an embedding; 0 where there are no captions.
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


class Sample(NamedTuple):
    """One example of a source.

    Attributes:
        pixels: uint8 (C, H, W) or, for video, (C, T, H, W).
        label: -1 where there is none.
        key: what messages call it.
        text: (L, text_width) token embeddings of its caption, L being its own; None where the contract has no text.
    """

    pixels: Tensor
    label: int
    key: str
    text: Tensor | None = None


class Unreadable(ValueError):
    """One example that cannot be read; the message names it and says why, in one line."""


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")


class Source(Dataset[Sample]):
    """One split of a data set: `source[i]` is a `Sample`, always the same for an `i`.

    A source is a component: its keyword-only parameters are the keys of a spec's `data`, and the classmethod
    `describe(**keys)` gives the `contract` that an instance of those keys will keep, without touching the disk.
    `hflip` says whether `batches` may mirror its images. Where `skips_unreadable`, an example that cannot be read is
    replaced by the next one, named and counted; elsewhere it is an error. Where `encoded`, samples hold z_clean of an
    encoder in the pixels' place, in floating point.
    """

    skips_unreadable: bool = False
    encoded: ClassVar[bool] = False

    describe: ClassVar[Callable[..., DataContract]]
    contract: DataContract
    hflip: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def draw(self, index: int, chance: float) -> Sample:
        """`source[index]`; of a video the clip that `chance` in [0, 1) picks, where `source[index]` is its middle."""
        return self[index]

    def mirrored(self, index: int, sample: Sample) -> Sample:
        """A sample of this index, as in a mirror."""
        return sample._replace(pixels=sample.pixels.flip(-1))

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


class TensorSource(Source):
    """A source that lies in memory.

    Args:
        images: uint8 (N, C, H, W).
        labels: N labels, -1 where there is none.
        keys: N names.
        contract: what images and labels keep.
        hflip: whether `batches` may mirror the images.
        captions: N captions as token embeddings, where the contract has text.
    """

    def __init__(
        self,
        images: Tensor,
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

    def __getitem__(self, index: int) -> Sample:
        text = self.captions[index] if self.captions else None
        return Sample(self.images[index], self.labels[index], self.keys[index], text)
