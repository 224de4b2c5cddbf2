"""Names of classes: from the folders of the data to checkpoints, exports and `--labels`."""

import shutil
from pathlib import Path

import pytest
import torch

from ulzoo.files import tensor_file
from ulzoo.model.contract import Contract
from ulzoo.registry.compile import compile_model, name_labels
from ulzoo.registry.runs.export import export, load_export, save_export
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.visualization.image_samples import label_name, label_numbers


def contract(*names: str, num_classes: int | None = None) -> Contract:
    return Contract((8, 8), 3, (4, 4), 2, 5.0, num_classes or len(names), names)


def test_names_are_matched_before_numbers() -> None:
    fruit = contract("apple", "bear", "cow")
    assert label_numbers("cow,0,BEAR, co", fruit) == [2, 0, 1, 2]
    folders = contract(*sorted(map(str, range(11))))
    assert label_numbers("10,9,2", folders) == [2, 10, 3]
    assert [label_name(number, folders) for number in label_numbers("10", folders)] == ["10"]
    with pytest.raises(ValueError, match="unknown label '11'"):
        label_numbers("11", folders)
    with pytest.raises(ValueError, match="unknown label '0'"):
        label_numbers("0", contract("1", "2", "3"))
    assert label_numbers("cat,Cat", contract("Cat", "cat")) == [1, 0]
    assert label_numbers("salt, pepper", contract("pepper", "salt, pepper")) == [1]
    with pytest.raises(ValueError, match="'crane' is ambiguous"):
        label_numbers("crane", contract("crane", "crane", "dog"))
    assert label_numbers("1", contract("crane", "crane", "dog")) == [1]
    assert label_numbers("3", contract(num_classes=4)) == [3]
    with pytest.raises(ValueError, match="there is no label 4"):
        label_numbers("4", contract(num_classes=4))


SHORT = (
    "train.latents.steps=2",
    "train.base.steps=2",
    "train.latents.checkpoint_every=1",
    "base.class_conditional=true",
)


@pytest.fixture
def spec(tiny, images: Path, tmp_path: Path):
    shutil.copytree(images, tmp_path / "images")
    return tiny("data.num_classes=2", f"data.root={tmp_path / 'images'}", *SHORT)


def test_names_are_in_checkpoints_and_exports(spec, tmp_path: Path) -> None:
    result = train(spec, tmp_path / "run")
    assert result is not None
    for path in (result.export, tmp_path / "again.safetensors", tmp_path / "half.safetensors"):
        if path.name == "again.safetensors":
            export(tmp_path / "run", path)
        if path.name == "half.safetensors":
            export(result.export, path, "float16")
        loaded = load_export(path)
        assert loaded.model.contract.label_names == ("even", "odd") and loaded.spec.hash == spec.hash
        assert label_numbers("odd", loaded.model.contract) == [1]
    latest = CheckpointManager(tmp_path / "run" / "checkpoints").latest()
    assert latest is not None and latest.metadata["label_names"] == ["even", "odd"]


def test_a_changed_list_is_refused_on_resume(spec, tmp_path: Path) -> None:
    train(spec, tmp_path / "run", RunOptions(stage="latents"))
    for split in ("train", "val"):
        (tmp_path / "images" / split / "even").rename(tmp_path / "images" / split / "zebra")
    for options in (RunOptions(resume=True), RunOptions(stage="base")):
        with pytest.raises(ValueError, match="classes of its data have changed, label 0 was 'even' and is now 'odd'"):
            train(spec, tmp_path / "run", options)


def test_exports_of_earlier_versions_have_no_names(tiny, tmp_path: Path) -> None:
    spec, path = tiny("data.num_classes=2"), tmp_path / "model.safetensors"
    model = compile_model(spec)
    save_export(path, model, spec, {})
    content = tensor_file.read(path, "cpu")
    for names, expected in ((None, ()), (["a", "b\x1b[31m"], ("a", r"b\x1b[31m"))):
        metadata = {key: value for key, value in content.metadata.items() if key != "label_names"}
        tensor_file.write(path, content.tensors, metadata if names is None else {**metadata, "label_names": names})
        assert load_export(path).model.contract.label_names == expected
    for wrong in (["a"], "ab", [1, 2], {"a": 1, "b": 2}):
        tensor_file.write(path, content.tensors, {**content.metadata, "label_names": wrong})
        with pytest.raises(tensor_file.DamagedFile, match=r"damaged .*label names"):
            load_export(path)
    name_labels(model, ())
    assert model.contract.label_names == () and torch.is_tensor(model.sample(1))
