import io
import json
import tarfile
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.data import Emoji3D
from ulzoo.data.images import emoji3d
from ulzoo.registry.spec.components import DATASETS

SHARDS = files("ulzoo.data") / "embedded"


@pytest.fixture(scope="module")
def val64() -> Emoji3D:
    return Emoji3D("val")


@pytest.fixture(scope="module")
def train32() -> Emoji3D:
    return Emoji3D("train", resolution=32)


def test_content_and_order_are_those_of_the_shard(val64: Emoji3D) -> None:
    with tarfile.open(fileobj=io.BytesIO((SHARDS / "emoji3d-64-val.tar.gz").read_bytes())) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    names = [name.removesuffix(".webp") for name in content if name.endswith(".webp")]
    assert len(val64) == len(names) == 327
    for i in (0, 1, 100, 326):
        pixels, label, key, _ = val64[i]
        assert key == names[i]
        assert label == int(content[f"{key}.cls"])
        expected = np.asarray(Image.open(io.BytesIO(content[f"{key}.webp"])))
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_keeps_its_contract(train32: Emoji3D, val64: Emoji3D) -> None:
    for source, resolution in ((train32, 32), (val64, 64)):
        assert source.contract == Emoji3D.describe(resolution=resolution, hflip=True, captions=False, classes=None)
        assert source.shape == (3, resolution, resolution) == tuple(source[0][0].shape)
        assert source.images.dtype == torch.uint8
        assert source.channels == 3
        assert source.num_classes == 9 == len(source.label_names)
        assert set(source.labels) == set(range(9))
        assert source.hflip


def test_32_is_the_mean_of_boxes_of_64(val64: Emoji3D) -> None:
    boxes = val64.images.unflatten(-1, (32, 2)).unflatten(-3, (32, 2)).int().sum((-1, -3))
    assert torch.equal(Emoji3D("val", resolution=32).images, ((boxes + 2) // 4).to(torch.uint8))


def test_a_split_is_decoded_once_per_process(val64: Emoji3D) -> None:
    first, second = Emoji3D("val"), Emoji3D("val", hflip=False)
    assert first.images.data_ptr() == second.images.data_ptr() and torch.equal(first.images, val64.images)


def test_the_splits_share_no_image(train32: Emoji3D, val64: Emoji3D) -> None:
    assert len(set(train32.keys)) == len(train32) == 3061
    assert not set(train32.keys) & set(val64.keys)


def test_label_names_are_the_shards_own(train32: Emoji3D) -> None:
    assert train32.label_names == tuple(json.loads((SHARDS / "labels.json").read_text())["labels"])


def test_licence_and_source_are_beside_the_shards() -> None:
    assert "Copyright (c) Microsoft Corporation" in (SHARDS / "LICENSE").read_text()
    readme = (SHARDS / "README.md").read_text()
    assert "@lobehub/fluent-emoji-3d` 1.1.0" in readme
    for name, sha256 in emoji3d.SHA256.items():
        assert name in readme and sha256 in readme


def test_a_damaged_shard_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(emoji3d.SHA256, "emoji3d-64-val.tar.gz", "0" * 64)
    emoji3d._decoded.cache_clear()
    with pytest.raises(ValueError, match=r"emoji3d-64-val\.tar\.gz: SHA-256 is aec7d6565c95…, not 000000000000…"):
        Emoji3D("val")


def test_a_subset_of_classes_keeps_images_and_labels(val64: Emoji3D) -> None:
    subset = Emoji3D("val", classes=(8, 2))
    indices = [i for i, label in enumerate(val64.labels) if label in (2, 8)]
    assert subset.keys == [val64.keys[i] for i in indices] and subset.labels == [val64.labels[i] for i in indices]
    assert torch.equal(subset.images, val64.images[indices])
    assert set(subset.labels) == {2, 8} and len(subset) == 8 + 27
    assert subset.contract == val64.contract


@pytest.mark.parametrize(
    ("split", "keys", "message"),
    [
        ("val", {"resolution": 48}, "32 or 64, not 48"),
        ("test", {}, "'test'"),
        ("val", {"classes": ()}, r"classes must be one or more labels from 0 to 8, or null for all, not \[\]"),
        ("val", {"classes": (1, 9)}, r"classes must .* not \[1, 9\]"),
        ("val", {"classes": (-1,)}, r"classes must .* not \[-1\]"),
    ],
)
def test_bad_keys(split: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Emoji3D(split, **keys)


def test_keys_of_a_spec() -> None:
    config = DATASETS.config("emoji3d").model_validate({"kind": "emoji3d", "classes": [2, 8], "captions": True})
    source = DATASETS.build(config, "val")
    assert (len(source), source.contract.text_width) == (35, 64)
