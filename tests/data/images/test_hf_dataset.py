"""Datasets of Hugging Face's `datasets`, written to and read from disk."""

import builtins
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.data import HFDataset, batches
from ulzoo.data.source import Unreadable

datasets = pytest.importorskip("datasets")
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)


def png(i: int) -> bytes:
    content = BytesIO()
    Image.fromarray(PIXELS[i]).save(content, "png")
    return content.getvalue()


def rows(count: int, **changes: object) -> "datasets.Dataset":
    columns = {
        "image": [{"bytes": png(i), "path": None} for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "text_embedding": [[[float(i), 0.5, 1.0]] * (i % 3) for i in range(count)],
        **changes,
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]) if "label" not in changes else datasets.Value("int64"),
            "text_embedding": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    datasets.DatasetDict({"train": rows(7), "validation": rows(2)}).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def opened(path: Path, split: str = "train", **keys: object) -> HFDataset:
    return HFDataset(split, **{"path": str(path), "resolution": 8, "num_classes": 2, **keys})  # type: ignore[arg-type]


def check(source: HFDataset, count: int) -> None:
    assert len(source) == count and source.label_names == ("a", "b")
    for i in range(count):
        sample = source[i]
        assert np.array_equal(sample.pixels.permute(1, 2, 0), PIXELS[i]) and sample.label == i % 2
        assert sample.text is not None and sample.text.shape == (i % 3, 3)
        assert (sample.text[:, 0] == i).all()


def test_saved_to_disk(saved: Path) -> None:
    for split, count in (("train", 7), ("val", 2)):
        check(opened(saved, split, text_tokens=4, text_width=3), count)
    assert opened(saved)[3].text is None and opened(saved)[3].key == "train/3"
    plain = opened(saved, num_classes=None)
    assert plain[1].label == -1 and plain.label_names == ()
    assert len(opened(saved, "val", val_split="train")) == 7


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for folder in (tmp_path / "flat", tmp_path / "hub" / "data"):
        folder.mkdir(parents=True)
        rows(4).to_parquet(str(folder / "train-00000-of-00001.parquet"))
        rows(2).to_parquet(str(folder / "validation-00000-of-00001.parquet"))
    for path in (tmp_path / "flat", tmp_path / "hub"):
        check(opened(path, text_tokens=4, text_width=3), 4)
        assert len(opened(path, "val")) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_exactly(saved: Path, workers: int) -> None:
    stream = list(islice(batches(opened(saved), 3, seed=0), 8))
    assert sorted(key for batch in stream for key in batch["key"])[:3] == ["train/0"] * 3
    resumed = islice(batches(opened(saved), 3, seed=0, start=9, workers=workers), 5)
    for a, b in zip(stream[3:], resumed, strict=True):
        assert a["key"] == b["key"] and torch.equal(a["x"], b["x"])


def refused(message: str, path: Path, split: str = "train", **keys: object) -> None:
    with pytest.raises(ValueError, match=message) as error:
        opened(path, split, **keys)
    assert "\n" not in str(error.value)


def test_mistakes(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(r"absent: no such folder \(`download: true` downloads", tmp_path / "absent")
    refused("not a dataset that `datasets` can open", tmp_path)
    refused("has no split 'test', it has 'train', 'validation'", saved, val_split="test", split="val")
    refused(
        "image_column: .* has no column 'img', it has 'image', 'label', 'text_embedding'", saved, image_column="img"
    )
    refused("label_column: .* has no column 'fine'", saved, label_column="fine")
    refused("text_width is missing", saved, text_tokens=3)
    refused("row 1 of train has the label 1, not one from 0 to 0", saved, num_classes=1)
    rows(2).save_to_disk(str(tmp_path / "flat"))
    refused("flat: has no splits: save a DatasetDict", tmp_path / "flat")
    source = opened(saved, text_tokens=3, text_width=5)
    assert source[0].text is not None and source[0].text.shape == (0, 5)
    with pytest.raises(Unreadable, match=r"train/1: its caption has shape \(1, 3\), not \(tokens, 5\)"):
        source[1]
    importing = builtins.__import__

    def without(name, *arguments, **keys):
        if name == "datasets":
            raise ImportError(name)
        return importing(name, *arguments, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(r"needs the package datasets: pip install 'ulzoo\[datasets\]'", saved)


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    damaged = [{"bytes": png(0), "path": None}, {"bytes": b"hello", "path": None}, None]
    data = rows(3, image=damaged)
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "saved"))
    source = opened(tmp_path / "saved")
    for i, words in ((1, "train/1: not an image"), (2, "train/2: no image")):
        with pytest.raises(Unreadable, match=words):
            source[i]
    batch = next(batches(opened(tmp_path / "saved", skip_unreadable=True), 3, seed=0))
    assert batch["key"] == ["train/0"] * 3 and sorted(batch["skipped"]) == [1, 2]


def save(folder: Path, image: list, label: list, image_type: object = None) -> Path:
    data = datasets.Dataset.from_dict({"image": image, "label": label})
    if image_type is not None:
        data = data.cast_column("image", image_type)
    datasets.DatasetDict({"train": data}).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.7, 1.0], "row 0 has the label 0.7, which is not an integer"),
        ([0.0, float("nan")], "row 1 has the label nan, which is not an integer"),
        ([float("inf"), 0.0], "row 0 has the label inf"),
        ([0, None], r"row 1 has no label in 'label' \(1 such rows\)"),
        ([None, None], "row 0 has no label"),
        (["cat", "dog"], r"'label' has string, not integers: `dataset.class_encode_column\('label'\)`"),
        (["0", "1"], "'label' has string, not integers"),
        ([[0], [1]], "'label' has List, not integers"),
        ([[0], [1, 0]], "'label' has List, not integers"),
        ([{"a": 0}, {"a": 1}], "'label' has dict, not integers"),
        ([2**62, 0], "row 0 of train has the label 4611686018427387904, not one from 0 to 1"),
    ],
)
def test_labels_that_are_no_integers(tmp_path: Path, labels: list, message: str) -> None:
    image = {"bytes": png(0), "path": None}
    refused(message, save(tmp_path / "saved", [image, image], labels, datasets.Image(decode=False)))


@pytest.mark.parametrize("labels", [[1, 0], [1.0, 0.0], [True, False]])
def test_labels_of_other_types_with_integer_values(tmp_path: Path, labels: list) -> None:
    image = {"bytes": png(0), "path": None}
    source = opened(save(tmp_path / "saved", [image, image], labels, datasets.Image(decode=False)))
    assert [source[0].label, source[1].label] == [1, 0]


@pytest.mark.parametrize(
    ("images", "name"),
    [([1, 2], "int64"), ([0.5, 1.0], "double|float64"), ([[1, 2]] * 2, "List"), ([[[1, 300]]] * 2, "List"),
     ([{"a": 1}] * 2, "dict")],
)  # fmt: skip
def test_columns_without_images(tmp_path: Path, images: list, name: str) -> None:
    refused(f"image_column: .*saved: 'image' has ({name}), not images", save(tmp_path / "saved", images, [0, 1]))


def test_images_of_other_types(tmp_path: Path) -> None:
    content = save(tmp_path / "content", [png(0), png(1)], [0, 1])
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(png(i))
    for folder in (content, save(tmp_path / "paths", paths, [0, 1])):
        for i in range(2):
            assert np.array_equal(opened(folder)[i].pixels.permute(1, 2, 0), PIXELS[i])


def test_empty_bytes(tmp_path: Path) -> None:
    images = [{"bytes": b"", "path": None}, {"bytes": b"", "path": ""}, {"bytes": png(0), "path": None}]
    source = opened(save(tmp_path / "saved", images, [0, 1, 0], datasets.Image(decode=False)))
    for i in range(2):
        with pytest.raises(Unreadable, match=f"saved: train/{i}: no image, its bytes are empty"):
            source[i]
    assert source[2].label == 0
