"""Noise that belongs to examples: the same in every part of a batch."""

import torch

from ulzoo.diffusion import ExampleNoise, IndependentNoise, TruncatedLogistic, low_discrepancy_times, rand, randn_like
from ulzoo.runtime.seeds import derive_seed


def test_parts_of_a_batch_draw_what_the_whole_batch_draws():
    x = torch.zeros(6, 2, 3)

    def drawn(first: int, last: int) -> list[torch.Tensor]:
        noise = ExampleNoise([derive_seed("example", n) for n in range(first, last)], 7, first, 6)
        part = x[first:last]
        return [
            low_discrepancy_times(len(part), noise),
            randn_like(part, noise),
            rand(len(part), noise),
            TruncatedLogistic(0.0, -5.0, 5.0).sample(len(part), noise),
            low_discrepancy_times(len(part), noise),
        ]

    batch, parts = drawn(0, 6), zip(*(drawn(*ends) for ends in ((0, 1), (1, 4), (4, 6))), strict=True)
    for value, part in zip(batch, parts, strict=True):
        assert torch.equal(value, torch.cat(part))
        assert len(value.flatten().unique()) == value.numel()
    assert torch.equal((batch[0] * 6).floor().sort().values, torch.arange(6.0))  # one in each stratum of the batch


def test_independent_noise_depends_on_neither_the_number_nor_the_part():
    x = torch.zeros(6, 2, 3)

    def drawn(n: int, rows: slice) -> list[torch.Tensor]:
        noise = IndependentNoise.from_generator(torch.Generator().manual_seed(3), n, torch.device("cpu")).part(rows)
        n = len(x[:n][rows])
        return [randn_like(x[:n], noise), low_discrepancy_times(n, noise), rand(n, noise)]

    for value, few, last in zip(drawn(6, slice(0, 6)), drawn(4, slice(0, 4)), drawn(6, slice(4, 6)), strict=True):
        assert torch.equal(value[:4], few) and torch.equal(value[4:], last)
        assert len(value.flatten().unique()) == value.numel()


def test_times_of_independent_examples_are_spread_over_draws_and_examples():
    noise = IndependentNoise(range(50), 1)
    times = noise.repeat(4).times().reshape(4, 50)
    assert torch.equal((times * 4).floor().sort(dim=0).values, torch.arange(4.0)[:, None].expand(4, 50))
    later = IndependentNoise(range(20, 30), 1, first=20).times()
    torch.testing.assert_close(later, IndependentNoise(range(50), 1).times()[20:30])
    gaps = later.new_tensor(sorted(IndependentNoise(range(50), 1).times().tolist())).diff()
    assert gaps.max() < 2.7 / 50  # three distances at most, none far above the mean
