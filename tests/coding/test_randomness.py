"""Shared random numbers: the same on every machine, from any position, and normal."""

import hashlib

import numpy as np

from ulzoo.coding.randomness import SharedRandomness, normal_quantiles


def test_the_numbers_of_a_stream_never_change() -> None:
    table = hashlib.sha256(normal_quantiles().astype("<f4").tobytes()).hexdigest()
    assert table[:16] == "979a9e9c3f1cc4d5"
    shared = SharedRandomness("00c0ffee", 7)
    assert shared.start(4).tolist() == [-0.5859375, 0.1429443359375, -0.88079833984375, -0.79083251953125]
    assert shared.vector(3, 1, 3, 1000).tolist() == [0.5614013671875, 0.35137939453125, 0.51092529296875]
    assert shared.permutation(2, 8).tolist() == [7, 1, 5, 3, 4, 0, 2, 6]


def test_a_vector_is_that_of_the_codebook() -> None:
    shared = SharedRandomness("a", 0)
    codebook = shared.codebook(5, 2, 37, 64)
    assert codebook.shape == (64, 37)
    assert all(np.array_equal(codebook[i], shared.vector(5, 2, 37, i)) for i in (0, 1, 63))


def test_numbers_are_normal_and_independent_of_each_other() -> None:
    shared = SharedRandomness("a", 0)
    numbers = shared.codebook(0, 0, 256, 512)
    assert abs(numbers.mean()) < 0.01 and abs(numbers.std() - 1) < 0.01
    others = [shared.codebook(0, 1, 256, 512), shared.codebook(1, 0, 256, 512)]
    others += [SharedRandomness(*key).codebook(0, 0, 256, 512) for key in (("a", 1), ("b", 0))]
    assert all(abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.02 for other in others)
    assert abs(shared.arrivals(0, 0, 4096)[-1] / 4096 - 1) < 0.06
