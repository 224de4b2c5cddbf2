import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ulzoo.media.pixels import PSNR_CAP, frame_psnr, from_uint8, psnr, to_uint8

ALL = torch.arange(256, dtype=torch.uint8)


def test_the_ends_of_the_range() -> None:
    assert from_uint8(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_every_value_round_trips() -> None:
    x = from_uint8(ALL)
    assert x.dtype == torch.float32
    assert torch.equal(to_uint8(x), ALL)
    assert torch.equal(to_uint8(x + 0.49 / 127.5), ALL)
    assert torch.equal(to_uint8(x - 0.49 / 127.5), ALL)


@given(st.floats(-1e6, 1e6))
def test_rounds_to_the_nearest_and_clamps(x: float) -> None:
    expected = min(max((x + 1) * 127.5, 0), 255)
    assert abs(to_uint8(torch.tensor([x])).item() - expected) <= 0.501


def test_half_precision_is_not_rounded_twice() -> None:
    x = torch.linspace(-1, 1, 999).bfloat16()
    assert torch.equal(to_uint8(x), to_uint8(x.float()))


@pytest.mark.parametrize("off", [1, 3, 100])
def test_psnr_of_a_known_error(off: int) -> None:
    x = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    y = x.clone()
    y[1] += off
    result = psnr(from_uint8(x), from_uint8(y))
    assert result.shape == (2,)
    assert result[1].item() == pytest.approx(20 * math.log10(255 / off))
    assert result[0].item() == pytest.approx(PSNR_CAP, abs=0.01)


def test_psnr_averages_over_all_but_the_batch() -> None:
    x = torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8)  # a clip
    y = x.clone()
    y[0, 1, 1, 2, 3] = 50
    expected = 10 * math.log10(255**2 / (50**2 / x[0].numel()))
    assert psnr(from_uint8(x), from_uint8(y)).item() == pytest.approx(expected)


def test_psnr_sees_rounded_pixels() -> None:
    x = from_uint8(ALL)[None]
    assert torch.equal(psnr(x, x + 0.4 / 127.5), psnr(x, x))


def test_psnr_decreases_with_the_number_of_errors() -> None:
    x = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    results = []
    for wrong in (0, 1, 5, 30, 100, 256):
        y = x.clone()
        y.view(-1)[:wrong] = 1
        results.append(psnr(from_uint8(x), from_uint8(y)).item())
    assert results == sorted(results, reverse=True)


def test_psnr_of_each_frame() -> None:
    x = torch.full((2, 3, 4, 5, 5), 100, dtype=torch.uint8)
    y = x.clone()
    y[0, :, 1] += 3
    y[1, :, 3] -= 10
    result = frame_psnr(from_uint8(x), from_uint8(y))
    expected = torch.full((2, 4), PSNR_CAP)
    expected[0, 1], expected[1, 3] = 20 * math.log10(255 / 3), 20 * math.log10(255 / 10)
    assert torch.allclose(result, expected, atol=0.01)
