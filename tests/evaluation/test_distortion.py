"""What is measured of which sizes, of clips frame by frame, and what the protocol says of it."""

import pytest
import torch

from ulzoo.evaluation.distortion import Distortion
from ulzoo.evaluation.protocol import protocol_of
from ulzoo.evaluation.ssim import ms_ssim, ssim
from ulzoo.media.pixels import frame_psnr, psnr
from ulzoo.model.contract import Contract


class Darkness:
    """In LPIPS's place: the difference of the mean levels."""

    name, least_side, protocol = "lpips_alex", 8, {"network_sha256": "0"}

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
def test_what_the_size_allows(side, names):
    distortion = Distortion(contract(side, side + 1))
    x, y = pair(3, 3, side, side + 1)
    distortion.add(x[:2], y[:2])
    distortion.add(x[2:], y[2:])
    expected = {"psnr_db": psnr(x, y).mean(), "ssim": 0, "ms_ssim": 0}
    if side >= 11:
        expected["ssim"] = ssim(x, y).mean()
    if side >= 176:
        expected["ms_ssim"] = ms_ssim(x, y).mean()
    assert distortion.figures() == {name: pytest.approx(float(expected[name]), rel=1e-6) for name in names}
    assert list(distortion.protocol) == [name.removesuffix("_db") for name in names]


def test_frames_are_images_and_given_ones_do_not_count():
    distortion = Distortion(contract(5, 16, 16), given=2, lpips=Darkness())
    x, y = pair(4, 3, 3, 16, 16)
    distortion.add(x, y)
    figures = distortion.figures()
    assert figures["psnr_db_by_frame"] == pytest.approx(frame_psnr(x, y).mean(0).tolist(), rel=1e-6)
    assert figures["psnr_db"] == pytest.approx(frame_psnr(x, y).mean().item(), rel=1e-6)
    frames, others = (clips.transpose(1, 2).flatten(0, 1) for clips in (x, y))
    assert figures["ssim"] == pytest.approx(ssim(frames, others).mean().item(), rel=1e-6)
    assert figures["lpips_alex"] == pytest.approx(Darkness()(frames, others).mean().item(), rel=1e-6)
    texts = [*(distortion.protocol[name] for name in ("psnr", "ssim")), distortion.protocol["lpips"]["averaged"]]
    assert all("clips and frames" in text and "given the first 2" in text for text in texts)


def test_a_network_that_needs_larger_images():
    with pytest.raises(ValueError, match="lpips_alex needs sides of at least 8 pixels, not 7"):
        Distortion(contract(7, 9), lpips=Darkness())


def test_each_figure_has_its_own_part_of_the_protocol():
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
