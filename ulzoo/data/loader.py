"""Batches in an order that is a function of the seed and the image counter alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ulzoo.data.source import DataContract, Sample, Source, Unreadable
from ulzoo.media.captions import Text, pad
from ulzoo.media.pixels import from_uint8
from ulzoo.runtime.messages import one_line
from ulzoo.runtime.seeds import derive_seed

Skipped = dict[int, str]
"""Index of an example that cannot be read -> a line that names the example and gives the reason."""


class Batch(TypedDict):
    """`B` images or clips of a source, and their captions."""

    x: Tensor  # (B, C, H, W) or (B, C, T, H, W) float32 in [-1, 1]; z_clean (B, c, h, w) if the source is encoded
    label: Tensor  # (B,) int64, -1 for none
    key: list[str]
    text: Text | None  # (B, L, D) token embeddings and their mask, if the source's contract has text
    images: int  # number of images that all ranks have consumed, including this batch
    skipped: Skipped  # examples that could not be read


@dataclass(frozen=True)
class StreamShard:
    """The share of each global batch that one process reads: the `rank`-th of `world_size` equal parts."""

    rank: int = 0
    world_size: int = 1


WHOLE_STREAM = StreamShard()


def batches(
    source: Source,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    augment: bool = True,
    workers: int = 0,
    shard: StreamShard = WHOLE_STREAM,
) -> Iterator[Batch]:
    """Yield shuffled batches without end; with several processes, each process yields its shard of every batch.

    Image n = 0, 1, 2, ... of the stream belongs to epoch n // len(source). The order within an epoch is a function of
    (seed, epoch), and the flip and the clip of an image of (seed, n). A run resumed at `start` therefore reads the same
    images as an uninterrupted one, for any number of workers and any batch size before. A batch may span two epochs.

    If the source `skips_unreadable`, an example that cannot be read is replaced by the next one, in the source's order,
    that can, and is listed in the batch's `skipped`.

    Args:
        source: the images or clips.
        batch_size: images per global batch, over all processes.
        seed: of the order, flips and clips.
        start: number of images consumed before.
        augment: mirror images with probability 1/2, if the source allows it.
        workers: processes that read ahead; 0 reads in this process.
        shard: the part of each batch that this process reads.

    Raises:
        ValueError: as raised by reading an image; or no example can be read.
    """
    assert batch_size > 0 and start >= 0 and len(source) > 0, (batch_size, start, len(source))
    assert batch_size % shard.world_size == 0 and 0 <= shard.rank < shard.world_size, (batch_size, shard)
    if workers:
        gc.collect()  # objects served by threads here: a forked worker lacks the threads and would hang on freeing them
    loader = DataLoader(
        _Stream(source, seed, augment and source.hflip),
        batch_sampler=_CounterBatches(batch_size, start, shard),
        num_workers=workers,
        collate_fn=_identity,
        worker_init_fn=_freeze_inherited_objects,
        generator=torch.Generator(),  # DataLoader draws a seed for its workers: not from the global generator
    )
    for item in loader:
        if isinstance(item, ValueError):
            raise item
        stacked, skipped = item
        start += batch_size
        yield _to_batch(stacked, skipped, start)


def in_order(
    source: Source, batch_size: int, limit: int | None = None, *, shard: StreamShard = WHOLE_STREAM
) -> Iterator[Batch]:
    """Yield the first `limit` images of a source once, in order and unaugmented; the last batch may be short.

    Of a video, the middle clip is used. If the source `skips_unreadable`, examples that cannot be read are skipped and
    do not count towards `limit`.

    Args:
        source: the images or clips.
        batch_size: images per batch.
        limit: number of images; all if None.
        shard: which batches are yielded: batch `rank` of every `world_size`; the others are not read, for which the
            source must not skip any.

    Raises:
        ValueError: as raised by reading an image; or no example can be read.
    """
    assert batch_size > 0, batch_size
    if shard.world_size > 1:
        assert not source.skips_unreadable
        count = len(source) if limit is None else min(limit, len(source))
        for start in range(shard.rank * batch_size, count, shard.world_size * batch_size):
            stop = min(start + batch_size, count)
            yield _to_batch(_stack([source[index] for index in range(start, stop)], source.contract), {}, stop)
        return
    samples: list[Sample] = []
    skipped: Skipped = {}
    images = 0
    for index in range(len(source)):
        if images + len(samples) == limit:
            break
        try:
            sample = source[index]
        except Unreadable as error:
            _skip(source, skipped, index, error)
            continue
        if len(samples) == batch_size:
            images += batch_size
            yield _to_batch(_stack(samples, source.contract), skipped, images)
            samples, skipped = [], {}
        samples.append(sample)
    if samples:
        yield _to_batch(_stack(samples, source.contract), skipped, images + len(samples))
    elif skipped:
        raise _nothing_readable(source, skipped)


class _CounterBatches:
    """For one process, its part of each batch of consecutive image counters, without end."""

    def __init__(self, batch_size: int, start: int, shard: StreamShard) -> None:
        self.batch_size, self.local_batch_size = batch_size, batch_size // shard.world_size
        self.start = start + shard.rank * self.local_batch_size

    def __iter__(self) -> Iterator[list[int]]:
        n = self.start
        while True:
            yield list(range(n, n + self.local_batch_size))
            n += self.batch_size


class _Stream(Dataset[Any]):
    """Map image counters to stacked images or clips, in this process or in a worker."""

    def __init__(self, source: Source, seed: int, flip: bool) -> None:
        self.source = source
        self.seed = seed
        self.flip = flip
        self.epoch = -1
        self.order: list[int] = []

    def __getitems__(self, counters: list[int]) -> tuple[_Stacked, Skipped] | ValueError:
        skipped: Skipped = {}
        try:
            return _stack([self._sample(n, skipped) for n in counters], self.source.contract), skipped
        except ValueError as error:  # returned, since DataLoader would wrap a traceback around the one-line message
            return error

    def _sample(self, n: int, skipped: Skipped) -> Sample:
        epoch, offset = divmod(n, len(self.source))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            self.order = torch.randperm(len(self.source), generator=generator).tolist()
            self.epoch = epoch
        position = (derive_seed(self.seed, "clip", n) >> 10) / 2**53
        index, sample = self._draw(self.order[offset], position, skipped)
        if self.flip and derive_seed(self.seed, "flip", n) & 1:
            return self.source.mirror(index, sample)
        return sample

    def _draw(self, first: int, position: float, skipped: Skipped) -> tuple[int, Sample]:
        """The first example at or after index `first` that can be read, and its index."""
        for offset in range(len(self.source)):
            index = (first + offset) % len(self.source)
            try:
                return index, self.source.draw(index, position)
            except Unreadable as error:
                _skip(self.source, skipped, index, error)
        raise _nothing_readable(self.source, skipped)


_Stacked = tuple[Tensor, Tensor, list[str], Text | None]


def _skip(source: Source, skipped: Skipped, index: int, error: Unreadable) -> None:
    """Record an example that cannot be read. Raises the error if the source does not skip such examples."""
    if not source.skips_unreadable:
        raise error
    skipped[index] = one_line(str(error))


def _nothing_readable(source: Source, skipped: Skipped) -> ValueError:
    return ValueError(f"none of the {len(source)} examples can be read; one is {next(iter(skipped.values()))}")


def _stack(samples: list[Sample], contract: DataContract) -> _Stacked:
    pixels, labels, keys, captions = zip(*samples, strict=True)
    text = None
    if contract.text_tokens:
        for key, caption in zip(keys, captions, strict=True):
            assert caption is not None and caption.shape[1:] == (contract.text_width,), key
        text = pad(list(captions), contract.text_tokens)
    return torch.stack(pixels), torch.tensor(labels, dtype=torch.int64), list(keys), text


def _to_batch(stacked: _Stacked, skipped: Skipped, images: int) -> Batch:
    pixels, label, key, text = stacked
    if pixels.is_floating_point():
        x = pixels.float()
    else:
        memory = torch.from_numpy(np.empty(pixels.shape, np.float32))  # in huge pages, unlike torch.empty: faster
        x = from_uint8(pixels, out=memory)
    return {"x": x, "label": label, "key": key, "text": text, "images": images, "skipped": skipped}


def _identity(item: Any) -> Any:
    return item


def _freeze_inherited_objects(worker: int) -> None:
    """In a worker: exempt objects inherited from the parent from garbage collection."""
    gc.freeze()
