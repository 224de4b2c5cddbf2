"""The mean training image and its PSNR, and the cautions about metrics."""

import base64

import pytest
import torch

from ulzoo.data import DataContract
from ulzoo.data.source import Sample, Source, TensorSource, Unreadable
from ulzoo.evaluation.cautions import find_cautions
from ulzoo.evaluation.distortion import Distortion
from ulzoo.evaluation.mean_image import EXAMPLES, MAX_SIDE, MeanImage
from ulzoo.media.pixels import from_uint8, psnr
from ulzoo.model.contract import Contract


def images(n: int, side: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(0)).byte()


def source(pixels: torch.Tensor) -> TensorSource:
    n = len(pixels)
    return TensorSource(
        pixels,
        labels=[-1] * n,
        keys=[str(i) for i in range(n)],
        contract=DataContract(3, pixels.shape[-1], 0),
    )


def mean(pixels: torch.Tensor) -> MeanImage:
    result = MeanImage.of(source(pixels))
    assert result is not None
    return result


def test_it_is_the_mean_of_all_of_few_images():
    pixels = images(5)
    assert torch.equal(mean(pixels).pixels, pixels.double().mean(0).round().byte()) and mean(pixels).examples == 5


def test_it_is_the_mean_of_images_spread_over_many():
    pixels = images(2 * EXAMPLES + 10)
    indices = [i * len(pixels) // EXAMPLES for i in range(EXAMPLES)]
    assert mean(pixels).examples == EXAMPLES and indices[-1] > len(pixels) - 4
    assert torch.equal(mean(pixels).pixels, pixels[indices].double().mean(0).round().byte())


class Clips(Source):
    """Two readable clips, of which the first is black and the second gets brighter by the frame, and one other."""

    contract = DataContract(3, 4, 0, frames=3)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise Unreadable("one cannot be read")
        levels = torch.tensor([0, 60, 120] if index else [0, 0, 0]).reshape(1, 3, 1, 1)
        return Sample(levels.expand(3, 3, 4, 4).byte(), -1, str(index))


class Broken(Clips):
    def __getitem__(self, index):
        raise Unreadable("none can be read")


def test_of_clips_it_is_the_mean_frame_and_unreadable_ones_are_skipped():
    result = MeanImage.of(Clips())
    assert result is not None and result.examples == 2 and torch.equal(result.pixels, torch.full((3, 4, 4), 30).byte())
    assert MeanImage.of(Broken()) is None


def test_its_psnr_is_that_of_reconstructions_equal_to_it():
    pixels = images(6)
    x, image = from_uint8(pixels), mean(pixels)
    expected = psnr(from_uint8(image.pixels).expand_as(x), x)
    assert torch.equal(image.psnr(x), expected)
    distortion = Distortion(Contract((8, 8), 3, (1, 1), 1, 5.0), mean_image=image)
    distortion.add(x, x)
    assert distortion.metrics()["mean_image_psnr_db"] == pytest.approx(expected.mean().item())
    assert distortion.protocol["mean_image"] == image.protocol


def test_of_large_images_it_is_stored_small():
    side = 3 * MAX_SIDE
    smooth = torch.linspace(0, 255, side).expand(4, 3, side, side).round().byte()
    image = mean(smooth)
    assert image.pixels.shape == (3, MAX_SIDE, MAX_SIDE)
    assert image.psnr(from_uint8(smooth)).min() > 45


def test_it_is_stored_as_json():
    image = mean(images(5))
    restored = MeanImage.from_dict(image.to_dict(), 3)
    assert restored is not None and torch.equal(restored.pixels, image.pixels) and restored.examples == 5


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3, 8, 9]},
        {"shape": [3, 8]},
        {"shape": [3, -8, -8]},
        {"shape": [3, 8, 8 * MAX_SIDE]},
        {"shape": ["x"]},
        {"shape": None},
        {"pixels": "!"},
        {"pixels": base64.b64encode(bytes(191)).decode()},
        {"pixels": 3},
        {"examples": "many"},
    ],
    ids=str,
)
def test_a_file_may_contain_anything(change):
    assert MeanImage.from_dict({**mean(images(5)).to_dict(), **change}, 3) is None
    assert MeanImage.from_dict(mean(images(5)).to_dict(), 1) is None
    assert MeanImage.from_dict(change.get("shape"), 3) is None


def test_cautions():
    good = {"psnr_db": 20.0, "mean_image_psnr_db": 15.0, "bits_per_pixel": 0.5, "bits_per_dimension": 2.0}
    assert find_cautions(good) == [] and find_cautions({"psnr_db": 1.0}) == []
    (line,) = find_cautions({**good, "psnr_db": 14.99})
    assert "14.99 dB, is below 15.00 dB, that of the mean training image" in line
    (line,) = find_cautions({**good, "bits_per_dimension": 0.019, "bits_per_pixel": 0.0012})
    assert "0.0012 bits/pixel: the latent has collapsed" in line
