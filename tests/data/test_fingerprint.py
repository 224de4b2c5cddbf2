"""The fingerprint of a source: the same for copies, another one for other images, names or labels."""

import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.data import (
    DataContract,
    Emoji3D,
    Emoji3DVideo,
    ImageFolder,
    TensorSource,
    VideoFolder,
    VideoShards,
    WebDataset,
)
from ulzoo.data.fingerprint import PROBED, describe_change, fingerprint, spread
from ulzoo.data.prepare.images import ImageEncoding, prepare_image_folder
from ulzoo.data.prepare.pack import PackConfig
from ulzoo.data.source import Sample, Source, Unreadable

SIDE = 4


def draw(root: Path, classes: tuple[str, ...], count: int, seed: int = 0, suffix: str = "png") -> Path:
    """A folder of images of noise, `count` per class, in train and val."""
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
                image.save(root / split / name / f"{i:03}.{suffix}")
    return root


def folder(root: Path, split: str = "train", **keys) -> ImageFolder:
    return ImageFolder(split, root=str(root), resolution=SIDE, num_classes=2, **keys)


def changes(a: Source, b: Source) -> list[str]:
    return describe_change(fingerprint(a).identity, fingerprint(b).identity)


def test_examples_are_spread_from_the_first_to_the_last():
    assert spread(0) == [] and spread(3) == [0, 1, 2] and spread(PROBED) == list(range(PROBED))
    for count in (PROBED + 1, 1000, 1_281_167):
        indices = spread(count)
        assert len(set(indices)) == PROBED and (indices[0], indices[-1]) == (0, count - 1)
        assert max(b - a for a, b in pairwise(indices)) <= count // (PROBED - 1) + 1


def test_other_animals_have_another_fingerprint(tmp_path):
    pets, wild = draw(tmp_path / "a", ("cat", "dog"), 12), draw(tmp_path / "b", ("fox", "owl"), 5, seed=1)
    words = ["number of examples: 24 and 10", "keys", "labels", "sizes of the files", "label names"]
    assert changes(folder(pets), folder(wild)) == [*words, "content of the examples"]
    assert changes(folder(pets), folder(pets, hflip=False, verify=False)) == []


def test_images_replaced_under_the_same_names(tmp_path):
    root = draw(tmp_path / "a", ("cat", "dog"), 12, suffix="bmp")
    before = fingerprint(folder(root))
    draw(root, ("cat", "dog"), 12, seed=1, suffix="bmp")
    after = fingerprint(folder(root))
    assert (
        describe_change(before.identity, after.identity) == ["content of the examples"] and before.files != after.files
    )


def test_a_copy_has_the_same_identity_but_other_times(tmp_path):
    root = draw(tmp_path / "a", ("cat", "dog"), 12)
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    for path in copy.rglob("*.png"):
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    a, b = fingerprint(folder(root)), fingerprint(folder(copy))
    assert a.identity == b.identity and a.files != b.files
    assert fingerprint(folder(root)) == a
    names = ("examples", "keys", "labels", "sizes", "label_names", "content")
    assert tuple(a.identity) == names and a.identity["examples"] == 24


@pytest.mark.parametrize("index", [0, 50, 99])
def test_one_image_of_a_hundred_is_replaced(tmp_path, index):
    """By its size, as a file; one of the same size by the time of modification."""
    root = draw(tmp_path / "a", ("cat", "dog"), 50)
    before, path = fingerprint(folder(root)), Path(folder(root).paths[index])
    Image.new("RGB", (SIDE, SIDE)).save(path)
    assert "sizes of the files" in describe_change(before.identity, fingerprint(folder(root)).identity)
    root = draw(tmp_path / "b", ("cat", "dog"), 50, suffix="bmp")
    before, path = fingerprint(folder(root)), Path(folder(root).paths[index])
    Image.new("RGB", (SIDE, SIDE)).save(path)
    assert fingerprint(folder(root)).files != before.files


def test_names_and_labels(tmp_path):
    images = torch.zeros(3, 3, SIDE, SIDE, dtype=torch.uint8)
    contract = DataContract(3, SIDE, 2, ("cat", "dog"))

    def source(**fields) -> TensorSource:
        given = {"labels": [0, 1, 1], "keys": ["a", "b", "c"], "contract": contract} | fields
        return TensorSource(given.pop("images", images), **given)

    assert changes(source(), source()) == []
    assert changes(source(), source(labels=[0, 1, 0])) == ["labels"]
    assert changes(source(), source(keys=["a", "b", "d"])) == ["keys"]
    assert changes(source(), source(contract=DataContract(3, SIDE, 2, ("cat", "fox")))) == ["label names"]
    assert changes(source(), source(images=images + 1)) == ["content of the examples"]
    assert fingerprint(source(), 2).identity == fingerprint(source(keys=["a", "b", "d"]), 2).identity
    assert fingerprint(source()).files is None


def test_all_images_in_memory_are_read():
    """One pixel of 327 images."""
    a, b = Emoji3D("val", resolution=32), Emoji3D("val", resolution=32)
    b.images = b.images.clone()  # the sources of a process share them
    b.images[101, 2, 31, 31] ^= 1
    assert changes(a, b) == ["content of the examples"]
    assert changes(a, Emoji3D("val", resolution=32, captions=True)) == ["content of the examples"]


def test_shards_on_disk_and_behind_a_url(tmp_path):
    root, out = draw(tmp_path / "a", ("cat", "dog"), 20), tmp_path / "shards"
    for per_shard in (7, 40):
        config = PackConfig(out / str(per_shard), "train", ImageEncoding(SIDE), per_shard)
        prepare_image_folder(root, config, classes=True, val_fraction=0.1)
    keys = {"resolution": SIDE, "num_classes": 2}
    shards = WebDataset("train", root=str(out / "7"), **keys)
    assert changes(shards, WebDataset("train", root=f"file://{out / '7'}", **keys)) == []
    assert changes(shards, WebDataset("train", root=str(out / "40"), **keys)) == []
    before = fingerprint(shards)
    os.utime(out / "7" / "train-00002.tar", ns=(0, 0))
    assert fingerprint(WebDataset("train", root=str(out / "7"), **keys)).files != before.files


def test_rows_of_a_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    from ulzoo.data import HFDataset

    root = draw(tmp_path / "a", ("cat", "dog"), 20)
    paths = [str(path) for path in sorted((root / "train").rglob("*.png"))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})

    def saved(name: str, paths: list[str]) -> HFDataset:
        rows = {"image": [{"bytes": Path(path).read_bytes(), "path": None} for path in paths]}
        rows["label"] = [int("dog" in path) for path in paths]
        split = datasets.Dataset.from_dict(rows, features=features)
        datasets.DatasetDict({"train": split}).save_to_disk(str(tmp_path / name))
        return HFDataset("train", path=str(tmp_path / name), resolution=SIDE, num_classes=2)

    a, b = saved("one", paths), saved("two", paths)
    assert changes(a, b) == [] and fingerprint(a).files != fingerprint(b).files
    assert changes(a, saved("three", [*paths[:5], paths[6], paths[5], *paths[7:]])) != []
    sizes = [os.path.getsize(path) for path in paths]
    assert [example.size for example in a.list_examples(3)] == sizes[:3]
    outside = datasets.Dataset.from_dict({"image": paths, "label": [0] * len(paths)}, features=features)
    datasets.DatasetDict({"train": outside}).save_to_disk(str(tmp_path / "paths"))
    source = HFDataset("train", path=str(tmp_path / "paths"), resolution=SIDE, num_classes=2)
    assert [example.size for example in source.list_examples(100)] == sizes


def test_videos_are_compared_as_files(tmp_path, make_video, write_tar):
    root = tmp_path / "videos"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for i in range(3):
            (root / split / f"{i}.mp4").write_bytes(make_video(4 + i))
    keys = {"resolution": 16, "frames": 2}
    before = fingerprint(VideoFolder("val", root=str(root), **keys))
    assert set(before.identity) == {"examples", "keys", "labels", "sizes", "content"}
    content = (root / "val" / "1.mp4").read_bytes()
    (root / "val" / "1.mp4").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    after = fingerprint(VideoFolder("val", root=str(root), **keys))
    assert describe_change(before.identity, after.identity) == ["content of the examples"]
    (root / "val" / "0.mp4").write_bytes(bytes(3 * 2**20))  # not a video: it has content all the same
    assert len(fingerprint(VideoFolder("val", root=str(root), **keys)).identity["content"]) == 16
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-0.tar", [("0.mp4", make_video(4)), ("1.mp4", make_video(5))])
    shards = [VideoShards(split, root=str(tmp_path), **keys) for split in ("train", "val")]
    assert changes(*shards) == [] and fingerprint(shards[0]).identity["examples"] == 2
    assert fingerprint(Emoji3DVideo("val")).identity["examples"] == 47


class Unlisted(Source):
    """A source of another package, which only implements what `Source` requires."""

    contract, hflip = DataContract(1, 2, 0), False

    def __init__(self, damaged: int | None = None, last: int = 99):
        self.damaged, self.last, self.read = damaged, last, []

    def __len__(self):
        return 100

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.damaged:
            raise Unreadable(f"{index} is damaged")
        number = self.last if index == 99 else index
        return Sample(torch.full((1, 2, 2), number, dtype=torch.uint8), -1, str(index))


def test_a_source_without_a_list_of_its_examples():
    source = Unlisted()
    identity = fingerprint(source).identity
    assert set(identity) == {"examples", "content"} and source.read == spread(100)
    assert changes(source, Unlisted()) == []
    assert changes(source, Unlisted(last=7)) == ["content of the examples"]


def test_an_image_that_is_repaired_changes_the_fingerprint(tmp_path):
    assert changes(Unlisted(damaged=99), Unlisted()) == ["content of the examples"]
    root = draw(tmp_path / "a", ("cat", "dog"), 4)
    good = fingerprint(folder(root))
    path = root / "train" / "cat" / "002.png"
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes(30))
    with pytest.warns(UserWarning, match="1 of 8 images cannot be read"):
        damaged = fingerprint(folder(root, skip_unreadable=True))
    assert damaged.identity["examples"] == 7
    path.write_bytes(content)
    assert fingerprint(folder(root)).identity == good.identity
