"""What every source of images or video clips offers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor
from torch.utils.data import Dataset

from ulzoo.data.contract import DataContract

Sample = tuple[Tensor, int, str]

SPLITS = ("train", "val")


class Unreadable(ValueError):
    """One example that cannot be read; the message names it and says why, in one line."""


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")


class Source(Dataset[Sample]):
    """One split of a data set: `source[i]` is (uint8 pixels, label or -1, key), always the same for an `i`.

    The pixels are (C, H, W) or, for video, (C, T, H, W).

    A source is a component: its keyword-only parameters are the keys of a spec's `data`, and the classmethod
    `describe(**keys)` gives the `contract` that an instance of those keys will keep, without touching the disk.
    `hflip` says whether `batches` may mirror its images. Where `skips_unreadable`, an example that cannot be read is
    replaced by the next one, named and counted; elsewhere it is an error.
    """

    skips_unreadable: ClassVar[bool] = False

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
    """

    def __init__(
        self, images: Tensor, labels: Sequence[int], keys: Sequence[str], contract: DataContract, hflip: bool = False
    ) -> None:
        assert len(images) == len(labels) == len(keys), (len(images), len(labels), len(keys))
        assert images.shape[1:] == contract.shape, (images.shape, contract.shape)
        self.images = images
        self.labels = labels
        self.keys = keys
        self.contract = contract
        self.hflip = hflip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.images[index], self.labels[index], self.keys[index]
