from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulzoo.data import Batch, DataContract, TensorSource, batches, in_order
from ulzoo.pixels import from_uint8, to_uint8

LENGTH = 11


def made(hflip: bool = True, length: int = LENGTH) -> TensorSource:
    """Images of noise, so that a flip shows."""
    images = torch.randint(0, 256, (length, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    contract = DataContract(channels=3, resolution=4, num_classes=5)
    return TensorSource(images, [i % 5 for i in range(length)], [f"k{i}" for i in range(length)], contract, hflip)


SOURCE = made()

Image = tuple[bytes, int, str]


def images(stream: list[Batch]) -> list[Image]:
    """The stream image by image."""
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
    for x, label, key in zip(first["x"], first["label"], first["key"], strict=True):
        pixels, expected, _ = SOURCE[int(key[1:])]
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
    """Image by image, across epochs, whatever the batch size before."""
    whole = take(5 * LENGTH, batch_size=1, seed=seed)
    resumed = take(2, batch_size=batch_size, seed=seed, start=start)
    assert resumed[: len(whole) - start] == whole[start : start + len(resumed)]
    assert take(2, batch_size=other_size, seed=seed) == whole[: 2 * other_size]


@pytest.mark.parametrize("start", [0, 3, LENGTH - 1, 10 * LENGTH + 5])
def test_workers_change_nothing(start: int) -> None:
    assert take(7, start=start, workers=2) == take(7, start=start)


def test_seeds_give_other_orders_and_flips() -> None:
    assert take(10, seed=0) == take(10, seed=0) != take(10, seed=1)


def test_half_are_flipped_and_anew_each_epoch() -> None:
    originals = {pixels.numpy().tobytes() for pixels in SOURCE.images}
    flips = [image not in originals for image, _, _ in take(500)]
    assert 0.45 < sum(flips) / len(flips) < 0.55


def test_no_flip_where_it_is_not_wanted() -> None:
    originals = {pixels.numpy().tobytes() for pixels in SOURCE.images}
    assert {image for image, _, _ in take(10, augment=False)} == originals
    assert {image for image, _, _ in images(list(islice(batches(made(hflip=False), 4, seed=0), 10)))} == originals


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_left_alone(workers: int) -> None:
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
