"""SSIM, MS-SSIM and PSNR against other people's."""

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
from torchmetrics.functional.image import ssim as torchmetrics_ssim

from ulzoo.data import Emoji3D, in_order
from ulzoo.evaluation.ssim import MULTISCALE_SIDE, ms_ssim, ssim
from ulzoo.media.pixels import from_uint8, psnr, to_uint8


@pytest.fixture(scope="module")
def pairs():
    """Emoji, and the same with noise, blur, another brightness, and as they are."""
    x = next(in_order(Emoji3D("val", resolution=64), 8))["x"]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    y = torch.cat([x[:3] + 0.2 * noise[:3], torch.nn.functional.avg_pool2d(x[3:5], 3, 1, 1), 0.8 * x[5:7], x[7:]])
    return x, from_uint8(to_uint8(y))


def test_it_is_scikit_image_s(pairs):
    options = {"data_range": 255, "channel_axis": 0, "gaussian_weights": True, "sigma": 1.5}
    expected = [
        structural_similarity(*(to_uint8(image).numpy() for image in pair), use_sample_covariance=False, **options)
        for pair in zip(*pairs, strict=True)
    ]
    assert ssim(*pairs).tolist() == pytest.approx(expected, abs=1e-6)
    assert max(expected[:7]) < 0.999 and expected[7] == 1


def test_it_is_torchmetrics_without_the_border_that_it_reflects(pairs):
    images = (to_uint8(image).double() for image in pairs)
    whole, places = structural_similarity_index_measure(
        *images, data_range=255.0, reduction="none", return_full_image=True
    )
    inside = places[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert ssim(*pairs).tolist() == pytest.approx(inside.tolist(), abs=1e-6)
    assert (whole - inside).abs().max() > 0.01  # so the border is worth a word


def test_psnr_is_theirs_where_images_differ(pairs):
    x, y = (image[:7] for image in pairs)
    theirs = [
        peak_signal_noise_ratio(*(to_uint8(image).numpy() for image in pair), data_range=255)
        for pair in zip(x, y, strict=True)
    ]
    assert psnr(x, y).tolist() == pytest.approx(theirs, abs=1e-4)
    images = (to_uint8(image).double() for image in (x, y))
    expected = torchmetrics_psnr(*images, data_range=255.0, reduction="none", dim=(1, 2, 3))
    assert psnr(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_two_constants_in_closed_form():
    a, b = 100.0, 150.0
    x, y = (from_uint8(torch.full((1, 1, 16, 16), int(value), dtype=torch.uint8)) for value in (a, b))
    c1 = (0.01 * 255) ** 2
    assert ssim(x, y).item() == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1), rel=1e-6)


def test_ms_ssim_is_torchmetrics_channel_by_channel_without_the_border(pairs):
    """Its contrast leaves the border of 5 pixels out, its SSIM at the coarsest scale does not: half of the side."""
    x, y = (from_uint8(to_uint8(torch.nn.functional.interpolate(images[:4:3], size=176))) for images in pairs)
    images = [to_uint8(image).double() for image in (x, y)]
    whole = multiscale_structural_similarity_index_measure(*images, data_range=255.0, reduction="none")
    expected = torch.ones(2, 3, dtype=torch.float64)  # (B, C)
    for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        a, b = (torch.nn.functional.avg_pool2d(image, 2**scale).reshape(6, 1, -1, 176 >> scale) for image in images)
        _, similarity = torchmetrics_ssim._ssim_update(a, b, data_range=255.0, return_contrast_sensitivity=True)
        if scale == 4:
            _, places = torchmetrics_ssim._ssim_update(a, b, data_range=255.0, return_full_image=True)
            similarity = places[..., 5:-5, 5:-5].mean((1, 2, 3))
        expected *= similarity.reshape(2, 3) ** exponent
    expected = expected.mean(1)
    assert ms_ssim(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert ((expected > 0.3) & (expected < 0.999)).all()
    assert (whole - expected).abs().max() > 1e-4  # so theirs as it is differs


def test_ms_ssim_of_two_constants_in_closed_form():
    """Luminance counts at the coarsest scale alone."""
    a, b = 100.0, 150.0
    side = MULTISCALE_SIDE
    assert side == 176
    x, y = (from_uint8(torch.full((1, 1, side, side + 9), int(value), dtype=torch.uint8)) for value in (a, b))
    c1 = (0.01 * 255) ** 2
    expected = ((2 * a * b + c1) / (a**2 + b**2 + c1)) ** 0.1333
    assert ms_ssim(x, y).item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(AssertionError):
        ms_ssim(x[..., 1:, :], y[..., 1:, :])


def test_ms_ssim_of_opposites_is_a_number():
    x = from_uint8(torch.randint(0, 256, (1, 3, 176, 176), generator=torch.Generator().manual_seed(0)).byte())
    assert ms_ssim(x, -x).item() == 0
