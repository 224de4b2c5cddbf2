"""Why two Fréchet distances of one model differ: each cause in docs/evaluation.md separately."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.data import Emoji3D, in_order
from ulzoo.evaluation.features import images as image_features
from ulzoo.evaluation.features.images import efficientnet_lite0
from ulzoo.evaluation.frechet import FeatureStatistics, frechet_distance
from ulzoo.evaluation.protocol import FIELDS
from ulzoo.media.pixels import to_uint8

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "evaluation.md").read_text("utf-8")


def statistics(features: torch.Tensor) -> FeatureStatistics:
    collected = FeatureStatistics(features.shape[1])
    collected.add(features)
    return collected


@pytest.fixture(scope="module")
def lite0():
    patch = pytest.MonkeyPatch()
    patch.setattr(image_features, "SIDE", 64)  # for speed
    yield lambda images: statistics(efficientnet_lite0()(images)[0])
    patch.undo()


@pytest.fixture(scope="module")
def emoji():
    return to_uint8(next(in_order(Emoji3D("val", resolution=64), 60))["x"])


def test_fewer_samples_are_farther():
    """The distance of two sets of draws of one Gaussian tends to 0; for N draws it is about D/2 · D/N."""
    dimension, generator = 40, torch.Generator().manual_seed(0)
    many = statistics(torch.randn(200_000, dimension, generator=generator))
    distances = {}
    for n in (100, 400, 1600):
        draws = [statistics(torch.randn(n, dimension, generator=generator)) for _ in range(10)]
        distances[n] = np.mean([frechet_distance(draw, many) for draw in draws])
    assert distances[100] > 3 * distances[400] > 9 * distances[1600] > 0
    assert distances[1600] == pytest.approx(dimension * (dimension + 1) / 4 / 1600 + dimension / 1600, rel=0.1)


def test_resizing_changes_the_distance(lite0, emoji):
    """The same images, downsampled with and without antialiasing."""

    def downsampled(antialias):
        x = torch.nn.functional.interpolate(emoji.float(), (24, 24), mode="bilinear", antialias=antialias)
        return lite0(x.round().clamp(0, 255).byte())

    assert frechet_distance(downsampled(True), downsampled(False)) > 5
    assert frechet_distance(downsampled(True), downsampled(True)) < 1e-3


def test_jpeg_changes_the_distance(lite0, emoji):
    def written(kind, **options):
        images = []
        for image in emoji:
            file = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, kind, **options)
            images.append(torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1))
        return lite0(torch.stack(images))

    assert frechet_distance(written("PNG"), lite0(emoji)) < 1e-3
    assert frechet_distance(written("JPEG", quality=75), lite0(emoji)) > 5


def test_the_page_lists_the_fields_of_a_protocol():
    table = DOCS.partition("| field | meaning |")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(FIELDS)
    for field, meaning in FIELDS.items():
        assert f"| `{field}` | {meaning} |" in table


def test_the_tests_named_on_the_page_exist():
    named = set(re.findall(r"`(test_\w+)`", DOCS))
    files = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "evaluation").rglob("*.py"))
    assert len(named) > 8 and {name for name in named if f"def {name}(" not in files} == set()
