"""Noise that belongs to examples: the same in every part of a batch."""

import pytest
import torch
from scipy import stats

from ulzoo.diffusion import ExampleNoise, IndependentNoise, TruncatedLogistic, low_discrepancy_times, rand, randn_like
from ulzoo.diffusion import noise as noise_module
from ulzoo.diffusion.noise import GeneratorStreams, KeyStreams
from ulzoo.runtime.seeds import derive_seed


@pytest.fixture(params=[GeneratorStreams, KeyStreams], ids=["generators", "keys"], autouse=True)
def kind(request, monkeypatch):
    """Every test with the streams of the CPU, and with those of a GPU."""
    if request.param is KeyStreams and not noise_module.KEYS:
        pytest.skip("this version of PyTorch has no keys of random numbers")
    monkeypatch.setattr(noise_module, "example_streams", request.param.of)
    return request.param


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_numbers_have_their_distribution_and_are_independent(kind, draw):
    """Over examples whose seeds follow each other, over draws, and within an example."""
    streams, values = kind.of(range(400), "cpu"), torch.empty(2, 400, 50)
    for out in values:
        getattr(streams, f"fill_{draw}")(out)
    assert stats.kstest(values.flatten().numpy(), {"normal": "norm", "uniform": "uniform"}[draw]).pvalue > 1e-3
    for a, b in ((values[0], values[1]), (values[:, 1:], values[:, :-1]), (values[..., 1:], values[..., :-1])):
        a, b = a.flatten() - values.mean(), b.flatten() - values.mean()
        assert abs((a * b).mean() / values.var()) < 4 / a.numel() ** 0.5


def test_draws_of_one_example_differ_and_are_those_of_its_seed(kind):
    noise = IndependentNoise([5, 6], 0).repeat(3)
    drawn = randn_like(torch.zeros(6, 4), noise)
    assert len(drawn.unique()) == drawn.numel()
    alone = randn_like(torch.zeros(3, 4), IndependentNoise([6], 0).repeat(3))
    assert torch.equal(drawn[1::2], alone)


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
