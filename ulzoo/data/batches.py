"""Batches in an order that is a function of the seed and the image counter alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ulzoo.data.source import Sample, Source
from ulzoo.pixels import from_uint8
from ulzoo.seeds import derive_seed


class Batch(TypedDict):
    """`B` images of a source."""

    x: Tensor  # (B, C, H, W) float32 in [-1, 1]
    label: Tensor  # (B,) int64, -1 where there is none
    key: list[str]
    images: int  # how many were seen, this batch included


def batches(
    source: Source, batch_size: int, *, seed: int, start: int = 0, augment: bool = True, workers: int = 0
) -> Iterator[Batch]:
    """Endless shuffled batches, each of `batch_size` images.

    Image n = 0, 1, 2, ... of the stream belongs to epoch n // len(source); the epoch's order comes from (seed, epoch)
    and the image's flip from (seed, n). So a run that resumes at `start` sees what it would have seen, whatever the
    batch size before and the number of workers. A batch may straddle two epochs.

    Args:
        source: the images.
        batch_size: images a batch.
        seed: of orders and flips.
        start: how many images were seen already.
        augment: mirror images with probability 1/2, where the source allows it.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        ValueError: what reading an image raises.
    """
    assert batch_size > 0 and start >= 0 and len(source) > 0, (batch_size, start, len(source))
    loader = DataLoader(
        _Stream(source, seed, augment and source.hflip),
        batch_sampler=_Counters(batch_size, start),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the global generator
    )
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        start += batch_size
        yield _finish(batch, start)


def in_order(source: Source, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """The source's images (the first `limit` of them) once, in order, as they are. The last batch may be short."""
    assert batch_size > 0, batch_size
    stop = len(source) if limit is None else min(limit, len(source))
    for begin in range(0, stop, batch_size):
        end = min(begin + batch_size, stop)
        yield _finish(_stack([source[i] for i in range(begin, end)]), end)


class _Counters:
    """Lists of consecutive image counters, without end."""

    def __init__(self, batch_size: int, start: int) -> None:
        self.batch_size = batch_size
        self.start = start

    def __iter__(self) -> Iterator[list[int]]:
        n = self.start
        while True:
            yield list(range(n, n + self.batch_size))
            n += self.batch_size


class _Stream(Dataset[Any]):
    """Image counters to stacked images, in this process or in a worker."""

    def __init__(self, source: Source, seed: int, flip: bool) -> None:
        self.source = source
        self.seed = seed
        self.flip = flip
        self.epoch = -1
        self.order: list[int] = []

    def __getitems__(self, counters: list[int]) -> _Stacked | ValueError:
        try:
            return _stack([self._sample(n) for n in counters])
        except ValueError as error:  # returned, since a loader would wrap a traceback around the user's one line
            return error

    def _sample(self, n: int) -> Sample:
        epoch, position = divmod(n, len(self.source))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            self.order = torch.randperm(len(self.source), generator=generator).tolist()
            self.epoch = epoch
        pixels, label, key = self.source[self.order[position]]
        if self.flip and derive_seed(self.seed, "flip", n) & 1:
            pixels = pixels.flip(-1)
        return pixels, label, key


_Stacked = tuple[Tensor, Tensor, list[str]]


def _stack(samples: list[Sample]) -> _Stacked:
    pixels, labels, keys = zip(*samples, strict=True)
    return torch.stack(pixels), torch.tensor(labels, dtype=torch.int64), list(keys)


def _finish(stacked: _Stacked, images: int) -> Batch:
    pixels, label, key = stacked
    return {"x": from_uint8(pixels), "label": label, "key": key, "images": images}


def _as_it_is(batch: Any) -> Any:
    return batch
