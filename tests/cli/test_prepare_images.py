"""`ulzoo prepare image_folder` and `imagenet`: shards that a spec can train on, mistakes and interruptions."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

OUT = ("out", "--resolution", "32")
FOLDER = ("prepare", "image_folder", "pictures", *OUT)


def fill(root: Path, train: int) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", 4)):
        for i in range(count):
            path = root / "pictures" / split / "ab"[i % 2] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """The working directory, with pictures/ in it."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, 10)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_prepare_verify_and_train(ulzoo, pictures):
    (pictures / "pictures/train/a/000.png").write_bytes(b"hello")
    result = ulzoo(*FOLDER, "--classes", "--images-per-shard", 4, "--workers", 1)
    assert result.exit_code == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("out: 9 images of train in 3 shards, ") and second.startswith("out: 4 images of val in 1 ")
    assert "warning: 1 images skipped, all listed in out/manifest.json: train/a/000: " in result.stderr
    before = files(Path("out"))
    assert ulzoo(*FOLDER, "--classes", "--images-per-shard", 4).exit_code == 0 and files(Path("out")) == before
    verified = "out: matches its manifest, 9 images of train, 4 images of val\n"
    assert ulzoo("prepare", "verify", "out").stdout == ulzoo(*FOLDER, "--verify").stdout == verified
    tiny = (Path(__file__).parents[1] / "tiny.yaml").read_text().splitlines()
    data = "data: {kind: webdataset, root: out, resolution: 32, num_classes: 2}"
    Path("spec.yaml").write_text("\n".join(data if line.startswith("data:") else line for line in tiny))
    steps = ("--set", "train.latents.steps=2", "--set", "train.base.steps=2")
    result = ulzoo("train", "spec.yaml", "--out", "run", "--device", "cpu", *steps)
    assert result.exit_code == 0, result.stderr
    protocol = json.loads(Path("run/figures.json").read_text())["protocol"]
    assert protocol["images"] == 4 and protocol["data"]["kind"] == "webdataset"


MISTAKES = {
    "no such folder": (("prepare", "image_folder", "pics", *OUT), "pics: no such folder"),
    "no classes": (("prepare", "image_folder", "pictures/val/a", *OUT, "--classes"), "no class folders in it"),
    "resolution": ((*FOLDER, "--resolution", "0"), "resolution must be at least 1"),
    "share": (("prepare", "image_folder", "pictures/val", *OUT, "--val-fraction", "2"), "val_fraction must lie"),
    "not ImageNet": (("prepare", "imagenet", "pictures", *OUT), "train: has 0 class folders such as"),
    "nothing to verify": (("prepare", "verify", "out"), "out: no manifest.json in it"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(ulzoo, pictures, case):
    arguments, words = MISTAKES[case]
    result = ulzoo(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and words in result.stderr
    assert result.stdout == "" and not (pictures / "out").exists()


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_bytes(ulzoo, pictures, prepare_until_stopped):
    fill(pictures, 400)
    command = (*FOLDER, "--classes", "--images-per-shard", "20", "--resolution", "128")
    assert ulzoo("prepare", "image_folder", "pictures", "whole", *command[4:], "--workers", 1).exit_code == 0
    status, stderr = prepare_until_stopped(command, signal.SIGKILL)
    assert status == -signal.SIGKILL, stderr
    assert not json.loads(Path("out/manifest.json").read_text())["splits"]["train"]["complete"]
    assert ulzoo(*command, "--workers", 1).exit_code == 0
    assert files(Path("out")) == files(Path("whole"))
