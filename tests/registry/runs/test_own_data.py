"""Data given in place of that of a model's spec."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ulzoo import preprocess
from ulzoo.media.pixels import from_uint8
from ulzoo.registry.compile import compile_model, name_labels
from ulzoo.registry.runs.export import Export
from ulzoo.registry.runs.own_data import default_split, open_data, replace_data


@pytest.fixture
def export(tiny) -> Export:
    """An untrained model with the classes even and odd."""
    model = compile_model(tiny())
    name_labels(model, ["even", "odd"])
    return Export(model, tiny(), {})


def photographs(images: Path, folder: Path, names: tuple[str, ...]) -> Path:
    """A folder with one image in each subfolder."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        shutil.copy(sorted(images.glob("train/*/*.png"))[number], folder / name / f"{number}.png")
    return folder


def test_images_are_those_of_preprocess(export, images, tmp_path):
    folder = photographs(images, tmp_path / "a", ("x", "y"))
    files = [str(path) for path in sorted(folder.glob("*/*.png"))]
    for given in ([str(folder)], files):
        source = open_data(export, replace_data(export, given), default_split(given))
        assert [source[i].key for i in range(len(source))] == ["x/0.png", "y/1.png"]
        pixels = torch.stack([source[i].pixels for i in range(len(source))])
        assert torch.equal(from_uint8(pixels), preprocess(files, export.model))
        assert {source[i].label for i in range(len(source))} == {-1}
    assert default_split(None) == default_split([]) == "val"


def test_identities_contain_no_paths_and_hashes_of_models_stay(export, images, tmp_path):
    folders = [photographs(images, tmp_path / name, ("x", "y")) for name in "ab"]
    specs = [replace_data(export, [str(folder)]) for folder in folders]
    assert specs[0].data_identity() == specs[1].data_identity() and "root" not in specs[0].data_identity()
    files = [replace_data(export, [str(next(folder.glob("*/*.png")))]) for folder in folders]
    assert (
        files[0].data_identity() == files[1].data_identity() == {"kind": "image_files", "resolution": 16, "hflip": True}
    )
    assert replace_data(export) is export.spec


def test_all_images_of_a_folder_with_splits(export, images):
    spec = replace_data(export, [str(images)])
    assert [len(open_data(export, spec, split)) for split in ("all", "train", "val")] == [50, 44, 6]


def test_labels_are_those_of_the_model_if_all_its_classes_are_folders(export, images, tmp_path):
    def labels(*names: str) -> set[int]:
        folder = photographs(images, tmp_path / "".join(names), names)
        source = open_data(export, replace_data(export, [str(folder)]), "all")
        return {source[i].label for i in range(len(source))}

    assert labels("even", "odd") == {0, 1} and labels("even") == {-1} and labels("cat", "dog") == {-1}
    assert labels("even", "odd", "other") == {-1}


def test_settings_change_keys_or_the_kind(export, images):
    changed = replace_data(export, settings=[f"root={images}", "hflip=false"])
    assert (changed.data.root, changed.data.hflip, changed.data.num_classes) == (str(images), False, 2)
    other = replace_data(export, settings=["kind=emoji3d"])
    assert (other.data.kind, other.data.resolution) == ("emoji3d", 16)
    assert replace_data(export, settings=["kind=emoji3d", "resolution=32"]).data.resolution == 32


def test_videos_have_the_sizes_of_the_model(tiny_video, kinetics_layout, tmp_path):
    export = Export(compile_model(tiny_video(), "meta"), tiny_video(), {})
    kinetics_layout(tmp_path, "val", 4)
    (tmp_path / "videos" / "val-damaged_000005_000015.mp4").unlink()
    spec = replace_data(export, settings=["kind=video_folder", f"root={tmp_path / 'videos'}"])
    source = open_data(export, spec, "all")
    assert len(source) == 4 and source[0].pixels.shape == export.model.contract.shape
    with pytest.raises(ValueError, match="model of clips; give videos with --data kind=video_folder root=DIR"):
        replace_data(export, [str(tmp_path)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["kind=emoji3d", "resolution=32"], r"data: its examples have the shape 3×32×32, those of the model 3×16×16"),
        (["root=absent"], "data: absent: no such folder .*; give --data root=PATH, or --images with a folder or files"),
        (["kind=image_folder", "num_classes=3"], "has 2 class folders, but num_classes is 3"),
    ],
)
def test_data_that_does_not_fit(export, images, settings, message):
    with pytest.raises(ValueError, match=message):
        open_data(export, replace_data(export, settings=settings), "val")


def test_other_classes_are_refused(export, images, tmp_path):
    for names, message in (
        (("even", "other"), "label 1 is 'other' in the data and 'odd'"),
        (("a", "b", "c"), "classes"),
    ):
        folder = photographs(images, tmp_path / "".join(names), names)
        spec = replace_data(export, settings=[f"root={folder}", f"num_classes={len(names)}"])
        with pytest.raises(ValueError, match=message):
            open_data(export, spec, "all")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rot=x"], "data.rot: unknown key; did you mean 'root'"),
        (["kind=folder"], "unknown dataset 'folder'"),
        (["x"], "^--data x: write KEY=VALUE"),
        (["data.root=x"], "^--data data.root=x: 'data.root' is no key of the data section"),
    ],
)
def test_settings_that_are_none(export, settings, message):
    with pytest.raises(ValueError, match=message):
        replace_data(export, settings=settings)


def test_captions_for_samples(tiny, images, tmp_path):
    spec = tiny("data.text_tokens=2", "data.text_width=3")
    export = Export(compile_model(spec, "meta"), spec, {})
    folder = photographs(images, tmp_path / "a", ("x", "y"))
    own = replace_data(export, [str(folder)])
    assert open_data(export, own, "all").contract.text_width == 0  # reconstructed without captions
    with pytest.raises(ValueError, match="no captions to sample this model with: give text_tokens=2 text_width=3"):
        open_data(export, own, "all", samples=True)
    for path in folder.glob("*/*.png"):
        np.save(path.with_suffix(".npy"), np.zeros((1, 3), np.float32))
    captioned = replace_data(export, settings=[f"root={folder}", "num_classes=null"])
    assert open_data(export, captioned, "all", samples=True)[0].text.shape == (1, 3)
    longer = replace_data(export, settings=[f"root={folder}", "num_classes=null", "text_tokens=5"])
    with pytest.raises(ValueError, match=r"text_tokens and text_width are \(5, 3\), those of the model \(2, 3\)"):
        open_data(export, longer, "all")
