"""Which distortions are measured at which sizes, their protocol, and SSIM, MS-SSIM and PSNR against other packages."""

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
from ulzoo.evaluation.distortion import MULTISCALE_SIDE, Distortion, ms_ssim, ssim
from ulzoo.evaluation.protocol import protocol_of
from ulzoo.media.pixels import frame_psnr, from_uint8, psnr, to_uint8
from ulzoo.model.contract import Contract


class Darkness:
    """Stands in for LPIPS: the difference of the mean levels."""

    name, min_side, protocol = "lpips_alex", 8, {"network_sha256": "0"}

    def __call__(self, x, y):
        return (x - y).flatten(1).mean(1).abs()


def contract(*size):
    return Contract(size, 3, (1,) * len(size), 1, 5.0)


def pair(*shape):
    x, y = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return x, (x + y) / 2


@pytest.mark.parametrize(
    ("side", "names"),
    [(10, ["psnr_db"]), (11, ["psnr_db", "ssim"]), (176, ["psnr_db", "ssim", "ms_ssim"])],
)
def test_metrics_that_the_size_permits(side, names):
    distortion = Distortion(contract(side, side + 1))
    x, y = pair(3, 3, side, side + 1)
    distortion.add(x[:2], y[:2])
    distortion.add(x[2:], y[2:])
    expected = {"psnr_db": psnr(x, y).mean(), "ssim": 0, "ms_ssim": 0}
    if side >= 11:
        expected["ssim"] = ssim(x, y).mean()
    if side >= 176:
        expected["ms_ssim"] = ms_ssim(x, y).mean()
    assert distortion.metrics() == {name: pytest.approx(float(expected[name]), rel=1e-6) for name in names}
    assert list(distortion.protocol) == [name.removesuffix("_db") for name in names]


def test_frames_are_images_and_context_frames_do_not_count():
    distortion = Distortion(contract(5, 16, 16), context_frames=2, lpips=Darkness())
    x, y = pair(4, 3, 3, 16, 16)
    distortion.add(x, y)
    metrics = distortion.metrics()
    assert metrics["psnr_db_by_frame"] == pytest.approx(frame_psnr(x, y).mean(0).tolist(), rel=1e-6)
    assert metrics["psnr_db"] == pytest.approx(frame_psnr(x, y).mean().item(), rel=1e-6)
    frames, others = (clips.transpose(1, 2).flatten(0, 1) for clips in (x, y))
    assert metrics["ssim"] == pytest.approx(ssim(frames, others).mean().item(), rel=1e-6)
    assert metrics["lpips_alex"] == pytest.approx(Darkness()(frames, others).mean().item(), rel=1e-6)
    texts = [*(distortion.protocol[name] for name in ("psnr", "ssim")), distortion.protocol["lpips"]["averaged"]]
    assert all("clips and frames" in text and "given the first 2" in text for text in texts)


def test_a_network_that_needs_larger_images():
    with pytest.raises(ValueError, match="lpips_alex needs sides of at least 8 pixels, not 7"):
        Distortion(contract(7, 9), lpips=Darkness())


def test_each_metric_has_its_own_protocol_field():
    protocol = {**Distortion(contract(176, 176), lpips=Darkness()).protocol, "rate": "bound", "decoder_steps": 4}
    results = {"figures": {}, "protocol": protocol}
    own = {
        "psnr_db": "psnr",
        "psnr_db_by_frame": "psnr",
        "ssim": "ssim",
        "ms_ssim": "ms_ssim",
        "st_lpips_alex": "lpips",
    }
    for figure, field in own.items():
        assert protocol_of(results, figure).keys() == {field, "decoder_steps"}
    assert protocol_of(results, "lpips_vgg")["lpips"]["network_sha256"] == "0"
    assert protocol_of(results, "base_bits_per_pixel").keys() == {"rate"}


@pytest.fixture(scope="module")
def pairs():
    """Emoji, and copies with noise, blur, another brightness, and without a change."""
    x = next(in_order(Emoji3D("val", resolution=64), 8))["x"]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    y = torch.cat([x[:3] + 0.2 * noise[:3], torch.nn.functional.avg_pool2d(x[3:5], 3, 1, 1), 0.8 * x[5:7], x[7:]])
    return x, from_uint8(to_uint8(y))


def test_ssim_is_scikit_image_s(pairs):
    options = {"data_range": 255, "channel_axis": 0, "gaussian_weights": True, "sigma": 1.5}
    expected = [
        structural_similarity(*(to_uint8(image).numpy() for image in pair), use_sample_covariance=False, **options)
        for pair in zip(*pairs, strict=True)
    ]
    assert ssim(*pairs).tolist() == pytest.approx(expected, abs=1e-6)
    assert max(expected[:7]) < 0.999 and expected[7] == 1


def test_it_is_torchmetrics_without_the_border_that_it_reflects(pairs):
    images = (to_uint8(image).double() for image in pairs)
    with_border, similarity = structural_similarity_index_measure(
        *images, data_range=255.0, reduction="none", return_full_image=True
    )
    inside = similarity[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert ssim(*pairs).tolist() == pytest.approx(inside.tolist(), abs=1e-6)
    assert (with_border - inside).abs().max() > 0.01  # the border makes a difference


def test_psnr_is_theirs_if_images_differ(pairs):
    x, y = (image[:7] for image in pairs)
    theirs = [
        peak_signal_noise_ratio(*(to_uint8(image).numpy() for image in pair), data_range=255)
        for pair in zip(x, y, strict=True)
    ]
    assert psnr(x, y).tolist() == pytest.approx(theirs, abs=1e-4)
    images = (to_uint8(image).double() for image in (x, y))
    expected = torchmetrics_psnr(*images, data_range=255.0, reduction="none", dim=(1, 2, 3))
    assert psnr(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_ssim_of_two_constants_in_closed_form():
    a, b = 100.0, 150.0
    x, y = (from_uint8(torch.full((1, 1, 16, 16), int(value), dtype=torch.uint8)) for value in (a, b))
    c1 = (0.01 * 255) ** 2
    assert ssim(x, y).item() == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1), rel=1e-6)


def test_ms_ssim_is_torchmetrics_channel_by_channel_without_the_border(pairs):
    """Its contrast excludes the border of 5 pixels, its SSIM at the coarsest scale includes it: half of the side."""
    x, y = (from_uint8(to_uint8(torch.nn.functional.interpolate(images[:4:3], size=176))) for images in pairs)
    images = [to_uint8(image).double() for image in (x, y)]
    with_border = multiscale_structural_similarity_index_measure(*images, data_range=255.0, reduction="none")
    expected = torch.ones(2, 3, dtype=torch.float64)  # (B, C)
    for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        a, b = (torch.nn.functional.avg_pool2d(image, 2**scale).reshape(6, 1, -1, 176 >> scale) for image in images)
        _, similarity = torchmetrics_ssim._ssim_update(a, b, data_range=255.0, return_contrast_sensitivity=True)
        if scale == 4:
            _, full = torchmetrics_ssim._ssim_update(a, b, data_range=255.0, return_full_image=True)
            similarity = full[..., 5:-5, 5:-5].mean((1, 2, 3))
        expected *= similarity.reshape(2, 3) ** exponent
    expected = expected.mean(1)
    assert ms_ssim(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert ((expected > 0.3) & (expected < 0.999)).all()
    assert (with_border - expected).abs().max() > 1e-4  # the border makes a difference


def test_ms_ssim_of_two_constants_in_closed_form():
    """Luminance counts at the coarsest scale only."""
    a, b = 100.0, 150.0
    side = MULTISCALE_SIDE
    assert side == 176
    x, y = (from_uint8(torch.full((1, 1, side, side + 9), int(value), dtype=torch.uint8)) for value in (a, b))
    c1 = (0.01 * 255) ** 2
    expected = ((2 * a * b + c1) / (a**2 + b**2 + c1)) ** 0.1333
    assert ms_ssim(x, y).item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(AssertionError):
        ms_ssim(x[..., 1:, :], y[..., 1:, :])


def test_ms_ssim_of_opposites_is_finite():
    x = from_uint8(torch.randint(0, 256, (1, 3, 176, 176), generator=torch.Generator().manual_seed(0)).byte())
    assert ms_ssim(x, -x).item() == 0
