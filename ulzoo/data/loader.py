"""Batches in an order that is a function of the seed and the image counter alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ulzoo.data.source import DataContract, Sample, Source, Unreadable
from ulzoo.media.captions import Text, pad
from ulzoo.media.pixels import from_uint8
from ulzoo.runtime.seeds import derive_seed


class Batch(TypedDict):
    """`B` images or clips of a source, and their captions."""

    x: Tensor  # (B, C, H, W) or (B, C, T, H, W) float32 in [-1, 1]; z_clean (B, c, h, w) where the source is encoded
    label: Tensor  # (B,) int64, -1 where there is none
    key: list[str]
    text: Text | None  # (B, L, D) token embeddings and their mask, where the source's contract has text
    images: int  # how many were seen by all ranks, this batch included
    left_out: SkippedExamples  # examples that could not be read


SkippedExamples = dict[int, str]
"""Index of an example -> one line that names it and says why it cannot be read."""


def batches(
    source: Source,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    augment: bool = True,
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """Endless shuffled batches, each of `batch_size` images, of which each rank gets an equal share.

    Image n = 0, 1, 2, ... of the stream belongs to epoch n // len(source); the epoch's order comes from (seed, epoch)
    and the image's flip and clip from (seed, n). So a run that resumes at `start` sees what it would have seen,
    whatever the batch size before and the number of workers. A batch may straddle two epochs.

    Where the source `skips_unreadable`, the next example in the source's order that can be read takes the place of one
    that cannot, which is told in the batch's `left_out`.

    Args:
        source: the images or clips.
        batch_size: images a batch.
        seed: of orders, flips and clips.
        start: how many images were seen already.
        augment: mirror images with probability 1/2, where the source allows it.
        workers: processes that read ahead; 0 reads in this one.
        rank, ranks: which share, and of how many; the images are those of the same place of a whole batch.

    Raises:
        ValueError: what reading an image raises; or none can be read.
    """
    assert batch_size > 0 and start >= 0 and len(source) > 0, (batch_size, start, len(source))
    assert batch_size % ranks == 0 and 0 <= rank < ranks, (batch_size, rank, ranks)
    if workers:
        gc.collect()  # what threads here worked for: a forked worker has no such threads, and would hang freeing it
    loader = DataLoader(
        _Stream(source, seed, augment and source.hflip),
        batch_sampler=_Counters(batch_size, start, rank, ranks),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_inherited,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the global generator
    )
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        stacked, left_out = batch
        start += batch_size
        yield _finish(stacked, left_out, start)


def in_order(source: Source, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """The source's images (the first `limit` of them) once, in order, as they are. The last batch may be short.

    Of a clip it is the middle. Examples that cannot be read are left out, where the source `skips_unreadable`, and do
    not count.

    Raises:
        ValueError: what reading an image raises; or none can be read.
    """
    assert batch_size > 0, batch_size
    samples: list[Sample] = []
    left_out: SkippedExamples = {}
    done = 0
    for index in range(len(source)):
        if done + len(samples) == limit:
            break
        try:
            sample = source[index]
        except Unreadable as error:
            _leave_out(source, left_out, index, error)
            continue
        if len(samples) == batch_size:
            done += batch_size
            yield _finish(_stack(samples, source.contract), left_out, done)
            samples, left_out = [], {}
        samples.append(sample)
    if samples:
        yield _finish(_stack(samples, source.contract), left_out, done + len(samples))
    elif left_out:
        raise _nothing(source, left_out)


class _Counters:
    """A rank's share of lists of consecutive image counters, without end."""

    def __init__(self, batch_size: int, start: int, rank: int, ranks: int) -> None:
        self.batch_size, self.share = batch_size, batch_size // ranks
        self.start = start + rank * self.share

    def __iter__(self) -> Iterator[list[int]]:
        n = self.start
        while True:
            yield list(range(n, n + self.share))
            n += self.batch_size


class _Stream(Dataset[Any]):
    """Image counters to stacked images or clips, in this process or in a worker."""

    def __init__(self, source: Source, seed: int, flip: bool) -> None:
        self.source = source
        self.seed = seed
        self.flip = flip
        self.epoch = -1
        self.order: list[int] = []

    def __getitems__(self, counters: list[int]) -> tuple[_Stacked, SkippedExamples] | ValueError:
        left_out: SkippedExamples = {}
        try:
            return _stack([self._sample(n, left_out) for n in counters], self.source.contract), left_out
        except ValueError as error:  # returned, since a loader would wrap a traceback around the user's one line
            return error

    def _sample(self, n: int, left_out: SkippedExamples) -> Sample:
        epoch, position = divmod(n, len(self.source))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            self.order = torch.randperm(len(self.source), generator=generator).tolist()
            self.epoch = epoch
        chance = (derive_seed(self.seed, "clip", n) >> 10) / 2**53
        index, sample = self._draw(self.order[position], chance, left_out)
        if self.flip and derive_seed(self.seed, "flip", n) & 1:
            return self.source.mirrored(index, sample)
        return sample

    def _draw(self, index: int, chance: float, left_out: SkippedExamples) -> tuple[int, Sample]:
        """The example, or the first one after it that can be read, and its index."""
        for step in range(len(self.source)):
            at = (index + step) % len(self.source)
            try:
                return at, self.source.draw(at, chance)
            except Unreadable as error:
                _leave_out(self.source, left_out, at, error)
        raise _nothing(self.source, left_out)


_Stacked = tuple[Tensor, Tensor, list[str], Text | None]


def _leave_out(source: Source, left_out: SkippedExamples, index: int, error: Unreadable) -> None:
    """Note an example that cannot be read. Raises the error where the source does not skip."""
    if not source.skips_unreadable:
        raise error
    left_out[index] = str(error)


def _nothing(source: Source, left_out: SkippedExamples) -> ValueError:
    return ValueError(f"none of the {len(source)} examples can be read; one is {next(iter(left_out.values()))}")


def _stack(samples: list[Sample], contract: DataContract) -> _Stacked:
    pixels, labels, keys, captions = zip(*samples, strict=True)
    text = None
    if contract.text_tokens:
        for key, caption in zip(keys, captions, strict=True):
            assert caption is not None and caption.shape[1:] == (contract.text_width,), key
        text = pad(list(captions), contract.text_tokens)
    return torch.stack(pixels), torch.tensor(labels, dtype=torch.int64), list(keys), text


def _finish(stacked: _Stacked, left_out: SkippedExamples, images: int) -> Batch:
    pixels, label, key, text = stacked
    if pixels.is_floating_point():
        x = pixels.float()
    else:
        memory = torch.from_numpy(np.empty(pixels.shape, np.float32))  # in huge pages, unlike torch.empty: faster
        x = from_uint8(pixels, memory)
    return {"x": x, "label": label, "key": key, "text": text, "images": images, "left_out": left_out}


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_inherited(worker: int) -> None:
    """In a worker: objects of the parent are never collected here."""
    gc.freeze()
