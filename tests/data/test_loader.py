from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulzoo.data import Batch, DataContract, Source, TensorSource, batches, in_order
from ulzoo.data.source import Sample, Unreadable
from ulzoo.media.pixels import from_uint8, to_uint8

LENGTH = 11


def make_source(hflip: bool = True, length: int = LENGTH) -> TensorSource:
    """Images of noise, so that a flip can be detected."""
    images = torch.randint(0, 256, (length, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    contract = DataContract(channels=3, resolution=4, num_classes=5)
    return TensorSource(
        images,
        labels=[i % 5 for i in range(length)],
        keys=[f"k{i}" for i in range(length)],
        contract=contract,
        hflip=hflip,
    )


SOURCE = make_source()

Image = tuple[bytes, int, str]


def images(stream: list[Batch]) -> list[Image]:
    """The images, labels and keys of a stream."""
    return [
        (to_uint8(x).numpy().tobytes(), int(label), key)
        for batch in stream
        for x, label, key in zip(batch["x"], batch["label"], batch["key"], strict=True)
    ]


def take(n: int, batch_size: int = 4, **options: int | bool) -> list[Image]:
    return images(list(islice(batches(SOURCE, batch_size, **{"seed": 0, **options}), n)))  # type: ignore[arg-type]


def test_a_batch() -> None:
    stream = batches(SOURCE, 4, seed=0, start=8)
    first, second = next(stream), next(stream)
    assert first["x"].shape == (4, 3, 4, 4) and first["x"].dtype == torch.float32
    assert first["label"].dtype == torch.int64 and first["label"].shape == (4,)
    assert (first["images"], second["images"]) == (12, 16)
    assert first["text"] is None
    for x, label, key in zip(first["x"], first["label"], first["key"], strict=True):
        pixels, expected, _, _ = SOURCE[int(key[1:])]
        assert label == expected
        assert torch.equal(x, from_uint8(pixels)) or torch.equal(x, from_uint8(pixels.flip(-1)))


def test_an_epoch_shows_every_image_once_and_epochs_differ() -> None:
    stream = take(4, batch_size=LENGTH)
    epochs = [[key for _, _, key in stream[i : i + LENGTH]] for i in range(0, len(stream), LENGTH)]
    assert all(sorted(epoch) == sorted(SOURCE.keys) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@settings(deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 3 * LENGTH), st.integers(1, 2 * LENGTH), st.integers(1, 9))
def test_resuming_is_the_tail(seed: int, start: int, batch_size: int, other_size: int) -> None:
    """Across epochs, for any batch size before."""
    stream = take(5 * LENGTH, batch_size=1, seed=seed)
    resumed = take(2, batch_size=batch_size, seed=seed, start=start)
    assert resumed[: len(stream) - start] == stream[start : start + len(resumed)]
    assert take(2, batch_size=other_size, seed=seed) == stream[: 2 * other_size]


@pytest.mark.parametrize("start", [0, 3, LENGTH - 1, 10 * LENGTH + 5])
def test_workers_change_nothing(start: int) -> None:
    assert take(7, start=start, workers=2) == take(7, start=start)


def test_seeds_change_order_and_flips() -> None:
    assert take(10, seed=0) == take(10, seed=0) != take(10, seed=1)


def test_half_of_the_images_are_flipped_at_random_in_each_epoch() -> None:
    originals = {pixels.numpy().tobytes() for pixels in SOURCE.images}
    flips = [image not in originals for image, _, _ in take(500)]
    assert 0.45 < sum(flips) / len(flips) < 0.55


def test_no_flip_without_augmentation_or_hflip() -> None:
    originals = {pixels.numpy().tobytes() for pixels in SOURCE.images}
    assert {image for image, _, _ in take(10, augment=False)} == originals
    assert {
        image for image, _, _ in images(list(islice(batches(make_source(hflip=False), 4, seed=0), 10)))
    } == originals


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_not_used(workers: int) -> None:
    state = torch.get_rng_state()
    take(3, workers=workers)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("limit", [None, 0, 1, 4, 6, LENGTH, 99])
def test_in_order(limit: int | None) -> None:
    stream = list(in_order(SOURCE, 4, limit))
    n = min(LENGTH, 99 if limit is None else limit)
    assert images(stream) == [(pixels.numpy().tobytes(), i % 5, f"k{i}") for i, pixels in enumerate(SOURCE.images[:n])]
    assert [len(batch["key"]) for batch in stream] == [4] * (n // 4) + ([n % 4] if n % 4 else [])
    assert stream == [] or stream[-1]["images"] == n


class Clips(Source):
    """Clips of one frame that encodes the position; those in `broken` cannot be read."""

    skips_unreadable = True
    hflip = False

    def __init__(self, length: int = LENGTH, broken: tuple[int, ...] = ()) -> None:
        self.length, self.broken = length, set(broken)
        self.contract = DataContract(channels=3, resolution=4, num_classes=0, frames=1)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return self.draw(index, 0.5)

    def draw(self, index: int, position: float) -> Sample:
        if index in self.broken:
            raise Unreadable(f"k{index}: broken")
        pixels = torch.full((3, 1, 4, 4), int(256 * position), dtype=torch.uint8)
        return Sample(pixels, -1, f"k{index}")


def keys_and_positions(stream: list[Batch]) -> list[tuple[str, int]]:
    """(key, position in 256ths) of each clip."""
    return [
        (key, int(to_uint8(x).flatten()[0]))
        for batch in stream
        for x, key in zip(batch["x"], batch["key"], strict=True)
    ]


def clips(source: Source, n: int, batch_size: int = 4, **options: int) -> list[Batch]:
    return list(islice(batches(source, batch_size, **{"seed": 0, **options}), n))


def test_every_clip_is_drawn_at_its_own_position() -> None:
    stream = keys_and_positions(clips(Clips(), 100))
    assert stream == keys_and_positions(clips(Clips(), 100)) != keys_and_positions(clips(Clips(), 100, seed=1))
    positions = torch.tensor([position for _, position in stream], dtype=torch.float32)
    assert positions.min() < 10 and positions.max() > 245 and 118 < positions.mean() < 137
    positions_of_k0 = {position for key, position in stream if key == "k0"}
    assert len(positions_of_k0) > 20
    assert keys_and_positions(clips(Clips(), 5, start=44)) == stream[44:64]
    assert keys_and_positions(clips(Clips(), 5, batch_size=3, start=44, workers=2)) == stream[44:59]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_example_is_replaced_by_the_next_readable_one(workers: int) -> None:
    broken = (2, 5, 6, 10)
    intact, damaged = clips(Clips(), 11, workers=workers), clips(Clips(broken=broken), 11, workers=workers)
    replacement = {2: 3, 5: 7, 6: 7, 10: 0}
    expected = [
        (f"k{replacement.get(int(key[1:]), int(key[1:]))}", position) for key, position in keys_and_positions(intact)
    ]
    assert keys_and_positions(damaged) == expected
    skipped = [batch["skipped"] for batch in damaged]
    assert {index: line for part in skipped for index, line in part.items()} == {i: f"k{i}: broken" for i in broken}
    for batch, clean in zip(damaged, intact, strict=True):
        replaced = {int(key[1:]) for key in clean["key"]} & set(broken)
        assert replaced <= set(batch["skipped"]) <= replaced | {6}  # 6 is also tried after 5
        assert clean["skipped"] == {}


def test_a_source_that_does_not_skip_raises() -> None:
    source = Clips(broken=(4,))
    source.skips_unreadable = False  # type: ignore[misc]
    for stream in (batches(source, 1, seed=0), in_order(source, 1)):
        with pytest.raises(Unreadable, match="k4: broken"):
            list(islice(stream, LENGTH))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_is_an_error(workers: int) -> None:
    source = Clips(3, broken=(0, 1, 2))
    for stream in (batches(source, 2, seed=0, workers=workers), in_order(source, 2)):
        with pytest.raises(ValueError, match=r"none of the 3 examples can be read; one is k\d: broken") as error:
            next(stream)
        assert not isinstance(error.value, Unreadable)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 20])
@pytest.mark.parametrize("limit", [None, 1, 5])
def test_in_order_skips(batch_size: int, limit: int | None) -> None:
    broken = (0, 3, 4, LENGTH - 1)
    stream = list(in_order(Clips(broken=broken), batch_size, limit))
    readable = [i for i in range(LENGTH) if i not in broken][:limit]
    assert [key for batch in stream for key in batch["key"]] == [f"k{i}" for i in readable]
    assert {position for _, position in keys_and_positions(stream)} == {128}
    assert [len(batch["key"]) for batch in stream[:-1]] == [batch_size] * (len(stream) - 1)
    assert [batch["images"] for batch in stream] == [
        sum(len(batch["key"]) for batch in stream[: i + 1]) for i in range(len(stream))
    ]
    reached = [i for i in broken if limit is None or i < readable[-1]]
    assert [index for batch in stream for index in batch["skipped"]] == reached
