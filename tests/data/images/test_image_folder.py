from pathlib import Path

import pytest
import torch
from PIL import Image

from ulzoo.data import ImageFolder, batches

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def fill(folder: Path, colour: tuple[int, int, int] = RED, n: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new("RGB", (20, 16), colour).save(folder / f"{i:03d}.png")


def fails(message: str, split: str = "train", **keys: object) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ImageFolder(split, **{"resolution": 8, **keys})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_train_and_val_folders_with_classes(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "green", GREEN)
    fill(tmp_path / "train" / "blue", BLUE)
    fill(tmp_path / "val" / "green", GREEN, n=1)  # no blue: green is still class 1
    (tmp_path / "train" / "green" / "notes.txt").write_text("not an image")
    with pytest.warns(UserWarning, match=r"train: passed over 1 \.txt"):
        train = ImageFolder("train", root=str(tmp_path), resolution=8, num_classes=2)
    val = ImageFolder("val", root=str(tmp_path), resolution=8, num_classes=2)
    assert (len(train), len(val)) == (6, 1)
    pixels, label, key, _ = val[0]
    assert (label, key) == (1, "val/green/000.png")
    assert pixels.dtype == torch.uint8 and pixels.shape == train.shape == (3, 8, 8)
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 0]
    assert [train[i][1] for i in range(6)] == [0, 0, 0, 1, 1, 1]
    assert train.contract == val.contract
    assert train.label_names == ("blue", "green")
    described = ImageFolder.describe(resolution=8, num_classes=2, text_tokens=None, text_width=None, root="/nowhere")
    assert (described.shape, described.num_classes, described.label_names) == (train.shape, 2, ())


def test_images_at_any_depth_without_labels(tmp_path: Path) -> None:
    fill(tmp_path / "train", n=2)
    fill(tmp_path / "train" / "deep" / "er", n=1)
    fill(tmp_path / "val", n=1)
    source = ImageFolder("train", root=str(tmp_path), resolution=8)
    assert sorted(source[i][1:3] for i in range(3)) == [
        (-1, "train/000.png"),
        (-1, "train/001.png"),
        (-1, "train/deep/er/000.png"),
    ]
    assert (source.num_classes, source.label_names) == (0, ())


def test_val_is_held_out_without_split_folders(tmp_path: Path) -> None:
    fill(tmp_path / "a", n=100)
    fill(tmp_path / "b", n=100)

    def keys(split: str, val_fraction: float = 0.2) -> set[str]:
        source = ImageFolder(
            split, root=str(tmp_path), resolution=8, num_classes=2, val_fraction=val_fraction, verify=False
        )
        return {source.folders.key(path) for path in source.paths}

    train, val = keys("train"), keys("val")
    assert not train & val
    assert len(train | val) == 200
    assert 25 <= len(val) <= 55
    assert keys("val", 0.1) < val  # a larger fraction holds out a superset
    fill(tmp_path / "a" / "new", n=50)
    assert val < keys("val") and train < keys("train")  # no image changes its split


def test_folders_that_do_not_match(tmp_path: Path) -> None:
    root = str(tmp_path / "here")
    fails(r"here: no such folder \(expected", root=root)
    (tmp_path / "here").mkdir()
    fails(r"here: no images in it \(expected files \*\.jpg", root=root)
    fails(r"here: has 0 class folders, but num_classes is 2", root=root, num_classes=2)
    fill(tmp_path / "here" / "train" / "a")
    fails(r"has a folder train but no folder val", root=root)
    fill(tmp_path / "here" / "val" / "z")
    fails(r"train: has 1 class folders, but num_classes is 2", root=root, num_classes=2)
    fails(r"val: has a class folder 'z' that .*train does not have", "val", root=root, num_classes=1)
    fill(tmp_path / "few", n=1)
    fails(
        r"few: val_fraction 0.001 of so few images leaves none for val",
        "val",
        root=str(tmp_path / "few"),
        val_fraction=0.001,
    )


def test_keys_out_of_range(tmp_path: Path) -> None:
    fill(tmp_path)
    root = str(tmp_path)
    fails("resolution must be at least 1, not 0", root=root, resolution=0)
    fails("num_classes must be at least 1, or null .* not 0", root=root, num_classes=0)
    fails("val_fraction must lie between 0 and 1, not 1.5", root=root, val_fraction=1.5)
    fails("set verify to true", root=root, verify=False, skip_unreadable=True)
    fails("'test'", "test", root=root)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Ten images, of which 003 is not an image and 007 is truncated."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for i in range(10):
            Image.effect_noise((64, 64), 80).save(tmp_path / split / f"{i:03d}.jpg")
    (tmp_path / "train" / "003.jpg").write_text("hello")
    path = tmp_path / "train" / "007.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    return tmp_path


def test_unreadable_images_are_named_and_counted(damaged: Path) -> None:
    fails(
        r"2 of 10 images cannot be read \(`skip_unreadable: true` .*\); the first is .*003\.jpg: not an image",
        root=str(damaged),
    )
    assert len(ImageFolder("val", root=str(damaged), resolution=8)) == 10


def test_unreadable_images_are_skipped_on_request(damaged: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"2 of 10 images .* skipped: .*003\.jpg: not an image; .*007\.jpg: .*truncated"
    ):
        source = ImageFolder("train", root=str(damaged), resolution=8, skip_unreadable=True)
    assert len([source[i] for i in range(len(source))]) == 8


def test_nothing_readable_is_always_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    fails("1 of 1 images cannot be read; the first is", root=str(tmp_path), skip_unreadable=True, val_fraction=1e-9)


@pytest.mark.parametrize("workers", [0, 1])
def test_unverified_damage_is_an_error_when_it_is_read(damaged: Path, workers: int) -> None:
    source = ImageFolder("train", root=str(damaged), resolution=8, verify=False)
    stream = batches(source, 1, seed=0, workers=workers)
    with pytest.raises(ValueError, match=r"00[37]\.jpg: ") as error:
        for _ in range(10):
            next(stream)
    assert "\n" not in str(error.value)
