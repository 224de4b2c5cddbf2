"""Mistakes of the user: exit status 2, one line on stderr that names the mistake, nothing written."""

from pathlib import Path

import pytest
import torch

from ulzoo.registry.zoo import catalogue


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture
def refused(ulzoo, here):
    """Run a command that must be refused, and return its error line."""

    def refused(*args: object, status: int = 2) -> str:
        before = contents(here)
        result = ulzoo(*args)
        assert result.exit_code == status, result.output
        assert contents(here) == before
        assert result.stdout == ""
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr

    return refused


SPECS = {
    "unknown key": ("extends: tiny.yaml\nflavour: sweet\n", "bad.yaml:2: flavour: unknown key"),
    "misspelt key": ("extends: tiny.yaml\nlatent: {chanels: 4}\n", "did you mean 'channels'?"),
    "wrong type": (
        "extends: tiny.yaml\nlatent:\n  channels: many\n",
        "bad.yaml:3: latent.channels: expected an integer",
    ),
    "circular extends": ("extends: bad.yaml\n", "circular: bad.yaml -> bad.yaml"),
    "parent missing": ("extends: tinny.yaml\n", "did you mean 'tiny.yaml'?"),
    "unknown component": ("extends: tiny.yaml\nencoder: {kind: resnett}\n", "did you mean 'resnet'?"),
    "patch": ("extends: tiny.yaml\ndecoder:\n  backbone:\n    patch: 5\n", "bad.yaml:4: decoder.backbone.patch"),
    "syntax": ("name: [tiny\n", "not valid YAML"),
    "duplicate key": ("extends: tiny.yaml\nname: a\nname: b\n", "bad.yaml:3: name: duplicate key"),
    "empty": ("", "a spec is a mapping"),
}


@pytest.mark.parametrize("command", [("train",), ("train", "--dry-run"), ("show",), ("show", "--json")], ids=" ".join)
@pytest.mark.parametrize("case", SPECS)
def test_a_spec_with_a_mistake(here, refused, case, command):
    text, words = SPECS[case]
    (here / "bad.yaml").write_text(text)
    assert words in refused(command[0], "bad.yaml", *command[1:])


ARGUMENTS = {
    "missing file": (("train", "tinny.yaml"), "did you mean 'tiny.yaml'?"),
    "unknown name": (("show", "emoji32_tyni"), "did you mean 'emoji32_tiny'?"),
    "set an absent key": (("train", "tiny.yaml", "--set", "train.latents.stepz=5"), "did you mean 'steps'?"),
    "set without a value": (("show", "tiny.yaml", "--set", "train.latents.steps"), "write key.path=value"),
    "unknown device": (("train", "tiny.yaml", "--device", "gpu"), "unknown device 'gpu'"),
    "unknown accelerator": (("train", "tiny.yaml", "--dry-run", "--on", "8xh10"), "did you mean 'h100'?"),
    "accelerators without a plan": (("train", "tiny.yaml", "--on", "8xh100"), "--on goes with --dry-run"),
    "no model": (("sample", "emoji32_tyni"), "no such file, run directory or released model"),
    "not a picture": (("sample", "run", "--out", "a.jpg"), "PNG"),
    "no specs": (("list", "imagenot*"), "no spec matches 'imagenot*'"),
    "no address": (("sample", "hf://something"), "an address on the hub is hf://ORG/REPO"),
    "nothing to export": (("export", ".", "--out", "a.safetensors"), "contains no training checkpoints"),
    "not a checkpoint": (("export", "tiny.yaml", "--out", "a.safetensors"), "neither a run directory nor a training"),
    "base without latents": (("train", "tiny.yaml", "--stage", "base"), "no stage latents to build on"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_mistaken_argument(refused, case):
    args, words = ARGUMENTS[case]
    assert words in refused(*args)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_missing_device(refused):
    assert "this machine has no device 'cuda'" in refused("train", "tiny.yaml", "--device", "cuda")


RUNS = {
    "a run is there": (("train", "tiny.yaml", "--out", "run"), "--resume to continue it or --fresh"),
    "changed spec": (
        ("train", "tiny.yaml", "--out", "run", "--resume", "--set", "train.base.lr=0.1"),
        "train.base.lr: 0.001 -> 0.1",
    ),
    "fresh base": (
        ("train", "tiny.yaml", "--out", "run", "--stage", "base", "--fresh"),
        "would remove the stage latents",
    ),
    "out is a file": (("train", "tiny.yaml", "--out", "tiny.yaml"), "is a file, not a run directory"),
    "checkpoint for export": (
        ("sample", "run/checkpoints/base-00000002"),
        "a training checkpoint; `ulzoo export` makes a loadable file of it",
    ),
    "export for checkpoint": (
        ("export", "run/model.safetensors", "--out", "a.safetensors"),
        "neither a run directory nor a training checkpoint; an export needs --dtype",
    ),
    "no such label": (("sample", "run", "--labels", "9"), "there is no label 9; they are 0 to 8"),
    "no such label name": (("sample", "run", "--labels", "Flogs"), "did you mean 'Flags'?"),
    "ambiguous label": (("sample", "run", "--labels", "s"), "ambiguous: Smileys & Emotion, Symbols"),
    "labels for the prior": (("sample", "run", "--labels", "0", "--network", "prior"), "takes no class labels"),
    "guidance alone": (("sample", "run", "--guidance", "2"), "guidance needs class labels or captions"),
    "no such split": (("evaluate", "run", "--split", "test"), "split must be 'train' or 'val'"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_mistake_about_a_run(run, refused, case):
    args, words = RUNS[case]
    assert words in refused(*args)


def test_released_weights_with_a_wrong_hash(run, refused, monkeypatch):
    monkeypatch.setattr(catalogue, "WEIGHTS", run)
    manifest = catalogue.ReleaseManifest(
        name="tiny",
        sha256={"model.safetensors": "0" * 64},
        license="Apache-2.0",
        figures={},
        protocol={},
    )
    monkeypatch.setattr(catalogue, "releases", lambda: {"tiny": manifest})
    assert "but 000000000000… in its manifest" in refused("sample", "tiny")


def test_a_damaged_export(run, refused):
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model.safetensors").write_bytes(content)
    assert "does not match its digest" in refused("sample", "run")


@pytest.fixture
def folder_spec(here):
    (here / "images").mkdir()
    (here / "folder.yaml").write_text(
        "extends: tiny.yaml\ndata: {kind: image_folder, root: images, resolution: 32, val_fraction: 0.3}\n"
        "base: {class_conditional: false}\n"
    )
    return here / "images"


def test_an_empty_data_folder(folder_spec, refused):
    line = refused("train", "folder.yaml")
    assert "folder.yaml:2: data: " in line and "no images in it" in line


def test_an_unreadable_image(ulzoo, folder_spec, refused):
    from PIL import Image

    for i in range(8):
        Image.new("RGB", (40, 40), (30 * i, 0, 0)).save(folder_spec / f"{i}.png")
    (folder_spec / "broken.png").write_bytes(b"not a picture")
    line = refused("train", "folder.yaml")
    assert "broken.png: not an image" in line and "cannot be read" in line and "skip_unreadable" in line

    result = ulzoo("train", "folder.yaml", "--set", "data.skip_unreadable=true")
    assert result.exit_code == 0, result.stderr
    warnings = result.stderr.splitlines()
    assert warnings and all(line.startswith("warning: ") and "broken.png" in line for line in warnings)


@pytest.mark.parametrize(
    "args",
    [
        ("train",),
        ("train", "tiny.yaml", "--resume", "--fresh"),
        ("train", "tiny.yaml", "--stage", "third"),
        ("sample", "x", "--n", "0"),
        ("evaluate", "x", "--out", "."),
        ("find_conflicts",),
    ],
    ids=" ".join,
)
def test_usage_errors(ulzoo, here, args):
    before = contents(here)
    result = ulzoo(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output and "Usage: ulzoo" in result.stderr
    assert contents(here) == before


@pytest.mark.parametrize("rank", ["-1", "x", "", "0"])
def test_an_error_is_printed_unless_it_is_of_another_process(ulzoo, here, monkeypatch, rank):
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert ulzoo("show", "nowhere.yaml").stderr == "error: nowhere.yaml: no such file\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ulzoo("show", "nowhere.yaml").stderr == ""
