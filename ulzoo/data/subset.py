"""Some examples of a source, spread over all of it: the first ones are often of one class, as in sorted folders."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from ulzoo.data.loader import Batch, in_order
from ulzoo.data.source import ListedExample, Placement, Sample, Source
from ulzoo.diffusion.noise import GOLDEN_RATIO


def spread_out(source: Source, count: int | None) -> Source:
    """A source of `count` examples spread evenly over another one; that one itself if it has no more, or without count.

    Each is drawn from one of `count` equal parts, at places that have no period, as orders of classes may have.
    """
    return source if count is None or count >= len(source) else Subset(source, count)


def spread_batch(source: Source, count: int) -> Batch:
    """`count` examples spread over a source, or all of it, in one batch."""
    return next(in_order(spread_out(source, count), count))


class Subset(Source):
    """The examples of `spread_out`."""

    hflip = False

    def __init__(self, source: Source, count: int) -> None:
        starts = [i * len(source) // count for i in range(count + 1)]
        places = [i * GOLDEN_RATIO % 1 for i in range(1, count + 1)]
        self.source = source
        self.indices = [a + int(u * (b - a)) for u, (a, b) in zip(places, pairwise(starts), strict=True)]
        self.contract, self.skips_unreadable = source.contract, source.skips_unreadable
        self.encoded = source.encoded  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.indices[index]]

    def draw(self, index: int, position: float) -> Sample:
        return self.source.draw(self.indices[index], position)

    def place(self, index: int, placement: Placement) -> Sample:
        return self.source.place(self.indices[index], placement)

    def caption(self, index: int) -> str:
        return self.source.caption(self.indices[index])

    def list_examples(self, count: int) -> Iterable[ListedExample] | None:
        listed = self.source.list_examples(len(self.source))
        if listed is None:
            return None
        entries = list(listed)
        return (entries[index] for index in self.indices[:count])

    def content(self, index: int) -> bytes:
        return self.source.content(self.indices[index])
