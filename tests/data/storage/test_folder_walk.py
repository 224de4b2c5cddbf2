"""Folders of examples: hidden files, links that lead back, formats, and the warning about others."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from ulzoo.data import ImageFolder, VideoFolder, WebDataset, batches
from ulzoo.data.images.caption_file import check_text
from ulzoo.data.images.decode import FORMATS
from ulzoo.data.prepare.images import ImageEncoding, prepare_image_folder
from ulzoo.data.prepare.kinetics_annotations import find_videos
from ulzoo.data.prepare.pack import PackConfig
from ulzoo.data.source import IMAGE_SUFFIXES, DataContract, Sample, TensorSource, Unreadable
from ulzoo.data.storage.folder_walk import describe_passed_over, list_files
from ulzoo.data.storage.manifest import verify
from ulzoo.training.monitoring import SkippedExamples


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def draw(*paths: Path, **options: object) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (9, 90, 200)).save(path, **options)


def keys(root: Path, split: str = "train", **options) -> list[tuple[str, int]]:
    source = ImageFolder(split, **{"root": str(root), "resolution": 8, "val_fraction": 1e-9, **options})
    return [(source[i].key, source[i].label) for i in range(len(source))]


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("apple", "bear", ".ipynb_checkpoints", "__MACOSX"):
            draw(tmp_path / split / name / "1.png")
        draw(tmp_path / split / "bear" / ".ipynb_checkpoints" / "1.png", tmp_path / split / "bear" / "._1.png")
    with pytest.warns(UserWarning, match=r"train: passed over 4 hidden$"):
        assert keys(tmp_path, num_classes=2) == [("train/apple/1.png", 0), ("train/bear/1.png", 1)]
    config = PackConfig(tmp_path / "out", "val", ImageEncoding(8), per_shard=5)
    with pytest.warns(UserWarning, match="passed over 4 hidden"):
        assert prepare_image_folder(tmp_path, config, classes=True, val_fraction=0.1).count == 2
    with pytest.warns(UserWarning, match="passed over 4 hidden"):
        assert [key for key, _ in keys(tmp_path)] == ["train/apple/1.png", "train/bear/1.png"]


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    """41 files stay 41."""
    root, other = tmp_path / "root", tmp_path / "other"
    draw(
        *(root / "train" / "a" / f"{i}.png" for i in range(20)), *(root / "train" / "b" / f"{i}.png" for i in range(19))
    )
    draw(root / "val" / "a" / "0.png", other / "2.png", other / "deep" / "3.png")
    (root / "train" / "a" / "to_root").symlink_to(root)
    (root / "train" / "a" / "to_b").symlink_to(root / "train" / "b")
    (root / "train" / "b" / "to_itself").symlink_to(".")
    (root / "train" / "b" / "to_val").symlink_to(root / "val")
    (root / "train" / "b" / "above").symlink_to(tmp_path)
    (root / "train" / "b" / "other").symlink_to(other)
    (other / "deep" / "loop").symlink_to(other)
    for classes in (2, None):
        with pytest.warns(UserWarning, match="passed over 6 links that lead back"):
            files = keys(root, num_classes=classes)
        assert len(files) == 41 == len({key for key, _ in files})
        assert ("train/b/other/deep/3.png", 1 if classes else -1) in files


def test_a_link_is_followed_where_it_leads_elsewhere(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(tmp_path / "root")
    assert keys(tmp_path / "linked", num_classes=1) == [("cat/1.png", 0)]


def test_files_are_sorted_by_folder_then_name(tmp_path: Path) -> None:
    names = ["b.png", "z.png", "a/1.png", "a b/1.png", "a/b/c.png", "a/b.png"]
    touch(*(tmp_path / name for name in names))
    paths = [path.removeprefix(f"{tmp_path}/") for path in list_files(tmp_path, Counter())]
    assert paths == ["b.png", "z.png", "a/1.png", "a/b.png", "a b/1.png", "a/b/c.png"]


def test_files_that_are_passed_over_are_counted_by_suffix(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png", tmp_path / "2.png")
    touch(*(tmp_path / "a" / name for name in ("1.txt", "2.TXT", "1.heic", "README", "1.npy", ".DS_Store")))
    with pytest.warns(UserWarning) as warned:
        keys(tmp_path, num_classes=1)
    message = str(warned[0].message)
    start, _, parts = message.partition(": passed over ")
    assert start == str(tmp_path)
    expected = {"2 .txt", "1 .heic", "1 without a suffix", "1 hidden", "1 outside of the class folders"}
    assert set(parts.split(", ")) == expected
    touch(tmp_path / "none" / "1.heic")
    with pytest.raises(ValueError, match=r"no images in it .*; passed over 1 \.heic"):
        keys(tmp_path / "none")
    many = Counter({f".{i}": 10 - i for i in range(9)})
    assert describe_passed_over(many).endswith("5 .5, 9 others")


def test_suffixes_are_those_of_the_formats() -> None:
    Image.init()
    theirs = {suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "DIB")}
    assert theirs - set(IMAGE_SUFFIXES) == {".pfm"}  # float pixels, which have no known range
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)


@pytest.mark.parametrize("suffix", ["gif", "GIF", "jfif", "pbm", "jp2", "tga", "ico", "avif", "bmp", "dds", "apng"])
def test_images_of_every_format_are_read(tmp_path: Path, suffix: str) -> None:
    if suffix == "avif":
        pytest.importorskip("PIL._avif")
    draw(tmp_path / f"1.{suffix}", format={"apng": "png"}.get(suffix))
    assert keys(tmp_path) == [(f"1.{suffix}", -1)]


@pytest.mark.skipif(os.getuid() == 0, reason="root may open every folder")
def test_a_folder_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.warns(UserWarning, match="1 folder that cannot be opened"):
        keys(tmp_path)


def test_videos_too(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.mp4", tmp_path / ".cache" / "2.mp4", tmp_path / "a" / "._1.mp4")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    assert find_videos(tmp_path, "train") == {"1": str(tmp_path / "a" / "1.mp4")}
    with pytest.warns(UserWarning, match="passed over 2 hidden, 1 link that leads back"):
        source = VideoFolder("train", root=str(tmp_path), resolution=8, num_classes=1, val_fraction=1e-9)
    assert [video.key for video in map(source.video, range(len(source)))] == ["a/1.mp4"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Folders, images and unreadable images are packed, listed and skipped, and can be read back."""
    for split in ("train", "val"):
        for folder in (b"caf\xe9", b"b"):
            path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "in" / split), folder)))
            draw(path / os.fsdecode(b"\xff1.png"), path / os.fsdecode(b"\xff2.png"))
        (path / os.fsdecode(b"bad\xff.png")).write_bytes(b"hello")
        (path / "zero.png").touch()
    message = r"skipped: .*bad\udcff\.png: not an image; .*zero\.png: an empty file"
    with pytest.warns(UserWarning, match=message):
        folder = ImageFolder("train", root=str(tmp_path / "in"), resolution=8, num_classes=2, skip_unreadable=True)
    out = tmp_path / "out"
    for _ in range(2):  # the second run has nothing to do
        summary = prepare_image_folder(
            tmp_path / "in", PackConfig(out, "train", ImageEncoding(8), 2), classes=True, val_fraction=0.1
        )
        assert (summary.count, list(summary.failures)) == (4, ["train/b/bad\udcff", "train/b/zero"])
    assert verify(out) == {"train": "4 images"}
    shards = WebDataset("train", root=str(out), resolution=8, num_classes=2)
    assert shards.label_names == folder.label_names == ("b", "caf\udce9")
    assert {shards[i].key + ".png" for i in range(4)} == {folder[i].key for i in range(4)}


def test_examples_that_are_skipped_in_training_have_printable_names(tmp_path: Path) -> None:
    damaged = Unreadable("bad\udcff.png: not an image")

    class Damaged(TensorSource):
        skips_unreadable = True

        def __getitem__(self, index: int) -> Sample:
            if index == 0:
                raise damaged
            return super().__getitem__(index)

    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    source = Damaged(images, labels=[-1, -1], keys=["a", "b"], contract=DataContract(3, 8, 0))
    skipped = next(batches(source, 2, seed=0))["skipped"]
    assert skipped == {0: r"bad\udcff.png: not an image"}
    for _ in range(2):
        log = SkippedExamples(tmp_path)
        with pytest.warns(UserWarning, match="skipped: bad"):
            log.add(skipped)
        log.write()
        assert (tmp_path / "skipped.txt").read_text() == "bad\\udcff.png: not an image\n"


def test_empty_videos_and_captions_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "videos" / "a.mp4", tmp_path / "a.npy")
    source = VideoFolder("train", root=str(tmp_path / "videos"), resolution=8, val_fraction=1e-9)
    with pytest.raises(Unreadable, match=r"a\.mp4: an empty file"):
        source[0]
    with pytest.raises(Unreadable, match=r"a\.npy: an empty file"):
        check_text(tmp_path / "a.npy", 4)
