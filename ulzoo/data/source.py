"""What every source of images offers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor
from torch.utils.data import Dataset

from ulzoo.data.contract import DataContract

Sample = tuple[Tensor, int, str]

SPLITS = ("train", "val")


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")


class Source(Dataset[Sample]):
    """One split of a data set: `source[i]` is (uint8 pixels (C, H, W), label or -1, key), always the same for an `i`.

    A source is a component: its keyword-only parameters are the keys of a spec's `data`, and the classmethod
    `describe(**keys)` gives the `contract` that an instance of those keys will keep, without touching the disk.
    `hflip` says whether `batches` may mirror its images.
    """

    describe: ClassVar[Callable[..., DataContract]]
    contract: DataContract
    hflip: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

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
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
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
