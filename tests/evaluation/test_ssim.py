"""SSIM and PSNR against other people's."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
from torchmetrics.functional.image import structural_similarity_index_measure

from ulzoo.data import Emoji3D, in_order
from ulzoo.evaluation.ssim import frame_ssim, ssim
from ulzoo.pixels import from_uint8, psnr, to_uint8


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


def test_frames_are_images(pairs):
    x, y = (torch.stack([images[:4], images[4:]], dim=2) for images in pairs)  # (4, 3, 2, 64, 64)
    expected = ssim(*pairs)
    np.testing.assert_allclose(frame_ssim(x, y), torch.stack([expected[:4], expected[4:]], 1))
