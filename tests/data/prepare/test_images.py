"""Folders of images to shards: ADM's resizing, the files written, interruptions, errors."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ulzoo.data import ImageFolder, WebDataset
from ulzoo.data.images.decode import adm_square
from ulzoo.data.prepare import pack as packing
from ulzoo.data.prepare.images import ImageEncoding, ImageFile, prepare_image_folder, prepare_imagenet
from ulzoo.data.prepare.pack import PackConfig
from ulzoo.data.storage.manifest import SplitSummary, verify

RNG = np.random.default_rng(0)


def center_crop_arr(pil_image, image_size):
    """openai/guided-diffusion, `guided_diffusion/image_datasets.py`, verbatim (MIT)."""
    while min(*pil_image.size) >= 2 * image_size:
        pil_image = pil_image.resize(tuple(x // 2 for x in pil_image.size), resample=Image.BOX)

    scale = image_size / min(*pil_image.size)
    pil_image = pil_image.resize(tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC)

    arr = np.array(pil_image)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return arr[crop_y : crop_y + image_size, crop_x : crop_x + image_size]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8))


@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 40))
@settings(max_examples=200)
def test_the_resize_equals_adm_s(width: int, height: int, resolution: int) -> None:
    image = noise(width, height)
    assert np.array_equal(np.asarray(adm_square(image, resolution)), center_crop_arr(image, resolution))


def test_adm_on_images_as_large_as_imagenet_s() -> None:
    for size, resolution in (((500, 375), 256), ((1024, 683), 256), ((300, 451), 512), ((2048, 1537), 512)):
        image = noise(*size)
        assert np.array_equal(np.asarray(adm_square(image, resolution)), center_crop_arr(image, resolution))
    with pytest.raises(ValueError, match="too long and thin: 60000×1 would become 15360000×256 pixels"):
        adm_square(Image.new("RGB", (60_000, 1)), 256)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five training and two validation images in two classes, with captions of one to three tokens."""
    folder = tmp_path / "pictures"
    for i, name in enumerate(("train/b/1.png", "train/b/2.x.png", "train/a/é.jpg", "train/a/1.png", "train/a/3.webp",
                              "val/b/1.png", "val/a/9.png")):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(20 + i, 33).save(path)
        np.save(path.with_suffix(".npy"), np.full((1 + i % 3, 4), i, np.float16))
    return folder


def prepare(
    root: Path, out: Path, split: str = "train", *, encoding: ImageEncoding | None = None, **keys
) -> SplitSummary:
    config = PackConfig(out, split, encoding or ImageEncoding(16), keys.pop("per_shard", 2), keys.pop("workers", 1))
    return prepare_image_folder(root, config, **{"classes": True, "val_fraction": 0.5, **keys})


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_packed_images_are_read_back(root: Path, tmp_path: Path, kind: str) -> None:
    out, encoding = tmp_path / "out", ImageEncoding(16, kind, text_width=4)  # type: ignore[arg-type]
    for split, count in (("train", 5), ("val", 2)):
        assert prepare(root, out, split, encoding=encoding).count == count
        shards = WebDataset(split, root=str(out), resolution=16, num_classes=2, text_tokens=3, text_width=4)
        folder = ImageFolder(split, root=str(root), resolution=16, num_classes=2, text_tokens=3, text_width=4)
        theirs = {Path(sample.key).with_suffix("").as_posix().replace(".", "_"): (i, sample)
                  for i, sample in enumerate(folder[i] for i in range(count))}  # fmt: skip
        assert shards.label_names == folder.label_names == ("a", "b") and len(shards) == count
        for i in range(count):
            ours = shards[i]
            index, sample = theirs[ours.key]
            assert ours.label == sample.label and np.array_equal(ours.text, sample.text)  # type: ignore[arg-type]
            expected = center_crop_arr(Image.open(folder.paths[index]).convert("RGB"), 16).astype(int)
            error = np.abs(ours.pixels.permute(1, 2, 0).numpy() - expected)
            assert error.max() == 0 if kind != "jpeg" else error.mean() < 8
    assert verify(out) == {"train": "5 images", "val": "2 images"}
    entry = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    assert entry["settings"]["resize"] == "adm" and entry["totals"]["images"] == 5


def test_without_classes(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(root, out, classes=False).count == 5 and not (out / "labels.json").exists()
    assert verify(out) == {"train": "5 images"}
    shards = WebDataset("train", root=str(out), resolution=16)
    assert {shards[i].label for i in range(5)} == {-1} and shards[0].text is None


@pytest.mark.slow
def test_a_resumed_run_writes_the_same_bytes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    prepare(root, tmp_path / "uninterrupted", workers=2)
    add, remaining = packing._add, 3

    def killed(*arguments) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise KeyboardInterrupt
        add(*arguments)

    monkeypatch.setattr(packing, "_add", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, out)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="train is not complete"):
        verify(out)
    prepare(root, out)
    assert contents(out) == contents(tmp_path / "uninterrupted")
    with pytest.raises(
        ValueError, match="prepared with other settings: resolution was 16, now 8; choose another --out"
    ):
        prepare(root, out, encoding=ImageEncoding(8))


def test_images_that_cannot_be_read_are_named(root: Path, tmp_path: Path) -> None:
    (root / "train/a/1.png").write_bytes(b"hello")
    (root / "train/a/3.npy").unlink()
    Image.new("RGB", (60_000, 1)).save(root / "train/b/1.png")
    summary = prepare(root, tmp_path / "out", encoding=ImageEncoding(256, text_width=4))
    assert summary.count == 2 and sorted(summary.failures) == ["train/a/1", "train/a/3", "train/b/1"]
    for key, words in (("a/1", "not an image"), ("a/3", "3.npy: missing"), ("b/1", "1.png: too long and thin")):
        assert words in summary.failures[f"train/{key}"]
    assert verify(tmp_path / "out") == {"train": "2 images"}


def replace_images(folder: Path, seed: int = 1) -> None:
    """Other pixels in every file, under the same names."""
    rng = np.random.default_rng(seed)
    for path in folder.rglob("*.*"):
        if path.suffix != ".npy":
            width, height = Image.open(path).size
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)


def test_images_that_were_replaced_are_packed_again(root: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    prepare(root, out)
    before, names = contents(out), ("train-00000.tar", "train-00001.tar", "train-00002.tar")
    replace_images(root / "train")
    with pytest.warns(UserWarning, match="3 shards of train are written again: images were added, replaced or"):
        prepare(root, out)
    prepare(root, other)
    assert contents(out) == contents(other) and verify(out) == {"train": "5 images"}
    assert all(contents(out)[name] != before[name] for name in names)
    with Image.open(root / "train/b/1.png") as image:
        image.rotate(180).save(root / "train/b/1.png")
    with pytest.warns(UserWarning, match="1 shard of train is written again"):
        prepare(root, out)
    assert sum(contents(out)[name] != contents(other)[name] for name in names) == 1
    old = contents(out)["manifest.json"]
    entry = json.loads(old)["splits"]["train"]
    assert all(len(shard["inputs"]) == 16 for shard in entry["shards"])


def test_a_caption_that_was_replaced_is_packed_again(root: Path, tmp_path: Path) -> None:
    out, encoding = tmp_path / "out", ImageEncoding(16, text_width=4)
    prepare(root, out, encoding=encoding)
    np.save(root / "train/a/3.npy", np.ones((2, 4), np.float16))
    prepare(root, tmp_path / "plain")
    with pytest.warns(UserWarning, match="1 shard of train is written again"):
        prepare(root, out, encoding=encoding)
    shards = WebDataset("train", root=str(out), resolution=16, num_classes=2, text_tokens=3, text_width=4)
    texts = {shards[i].key: shards[i].text for i in range(5)}
    assert (texts["train/a/3"] == 1).all()  # type: ignore[union-attr]


def test_images_that_were_copied_are_not_packed_again(root: Path, tmp_path: Path) -> None:
    """A copy has other times of modification; its content is compared once."""
    out = tmp_path / "out"
    prepare(root, out)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    copy = Path(shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile))
    for path in copy.rglob("*.png"):
        os.utime(path, ns=(0, 10**18))
    prepare(copy, out)
    assert times == {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "file_content", None)  # times are those of the copy: no content is read
        prepare(copy, out)
    prepare(copy, tmp_path / "other")
    assert contents(out) == contents(tmp_path / "other")


def test_an_image_that_was_repaired_is_packed(root: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", root / "train/a/1.png"
    good = path.read_bytes()
    path.write_bytes(good[:-40] + bytes(40))
    assert list(prepare(root, out).failures) == ["train/a/1"]
    path.write_bytes(good)
    with pytest.warns(UserWarning, match="1 shard of train is written again"):
        summary = prepare(root, out)
    assert (summary.count, summary.failures) == (5, {}) and verify(out) == {"train": "5 images"}


def test_shards_are_mixed(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "in" / label).mkdir(parents=True)
        for i in range(40):
            Image.new("RGB", (4, 4)).save(tmp_path / "in" / label / f"{i}.png")
    prepare(tmp_path / "in", tmp_path / "out", val_fraction=0.01, per_shard=20, encoding=ImageEncoding(4))
    with tarfile.open(tmp_path / "out" / "train-00000.tar") as tar:
        labels = [tar.extractfile(member).read() for member in tar if member.name.endswith(".cls")]  # type: ignore[union-attr]
    assert 4 <= labels.count(b"0") <= 16


def test_mistakes(root: Path, tmp_path: Path) -> None:
    def refused(message: str, *arguments, **keys) -> None:
        with pytest.raises(ValueError, match=message) as error:
            prepare(*arguments, **keys)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()

    refused("no such folder", tmp_path / "absent", tmp_path / "out", classes=False)
    refused("no class folders in it: omit --classes", root / "train" / "a", tmp_path / "out")
    Image.new("RGB", (4, 4)).save(root / "train/b/2_x.jpg")
    refused(r"2[._]x\.\w+ and .*2[._]x\.\w+ would have the same key, 'train/b/2_x': rename", root, tmp_path / "out")
    for wrong in ({"resolution": 0}, {"resolution": 8, "text_width": 0}):
        with pytest.raises(ValueError, match="must be at least 1, not 0"):
            ImageEncoding(**wrong)


def test_long_names_become_hashes(tmp_path: Path) -> None:
    folder = tmp_path / "in" / ("d" * 100)
    folder.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (4, 4)).save(folder / f"{'n' * 120}{i}.png")
    assert prepare(tmp_path / "in", tmp_path / "out", classes=False, val_fraction=1e-9).count == 3
    assert len(WebDataset("train", root=str(tmp_path / "out"), resolution=4)) == 3


def test_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, names = tmp_path / "in", ("n00000002", "n00000001", "n00000007")
    for split, where in (("train", names), ("val", ("",))):
        for i, name in enumerate(where * (1 if split == "train" else 3)):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 7), (i, 0, 0)).save(root / split / name / f"ILSVRC2012_{split}_{i}.JPEG")
    table = tmp_path / "LOC_val_solution.csv"
    table.write_text("ImageId,PredictionString\n" + "".join(f"ILSVRC2012_val_{i},{name} 1 2 3 4 \n" for i, name in
                                                            enumerate(names)))  # fmt: skip

    def labels_of(split: str, val_labels: Path | None = None) -> dict[str, int]:
        out = tmp_path / "out"
        prepare_imagenet(root, PackConfig(out, split, ImageEncoding(4), per_shard=2), val_labels=val_labels)
        shards = WebDataset(split, root=str(out), resolution=4, num_classes=3)
        assert shards.label_names == tuple(sorted(names))
        return {Path(shards[i].key).name: shards[i].label for i in range(len(shards))}

    with pytest.raises(ValueError, match="train: has 3 class folders such as n01440764, not 1,000"):
        labels_of("train")
    monkeypatch.setattr("ulzoo.data.prepare.images.IMAGENET_CLASSES", 3)
    assert labels_of("train") == {"ILSVRC2012_train_0": 1, "ILSVRC2012_train_1": 0, "ILSVRC2012_train_2": 2}
    with pytest.raises(ValueError, match=r"val: no images in it .*; for a flat folder val pass --val-labels"):
        labels_of("val")
    assert labels_of("val", table) == {"ILSVRC2012_val_0": 1, "ILSVRC2012_val_1": 0, "ILSVRC2012_val_2": 2}
    table.write_text("ILSVRC2012_val_0,n00000002 1 2 3 4\n")
    with pytest.raises(ValueError, match=r"csv: has no row for ILSVRC2012_val_1\.JPEG \(2 such images\)"):
        labels_of("val", table)
    table.write_text("hello")
    with pytest.raises(ValueError, match="csv: has no rows such as"):
        labels_of("val", table)


def test_an_image_file_as_an_example(tmp_path: Path) -> None:
    image_file = ImageFile("k", 3, str(tmp_path / "a.png"))
    assert not image_file.is_present() and image_file.identity() == ("k", 3)
    content = io.BytesIO()
    noise(5, 5).save(content, "png")
    Path(image_file.path).write_bytes(content.getvalue())
    assert image_file.is_present() and [suffix for suffix, _ in image_file.files(ImageEncoding(5, "webp"))] == [
        "webp",
        "cls",
    ]
