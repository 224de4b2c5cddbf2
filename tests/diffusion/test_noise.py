"""Noise that belongs to examples: the same in every part of a batch."""

import torch

from ulzoo.diffusion import ExampleNoise, TruncatedLogistic, low_discrepancy_times, rand, randn_like
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
