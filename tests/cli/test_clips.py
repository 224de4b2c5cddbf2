"""The commands on a model of clips: what they write and print, and their errors."""

import hashlib
import json
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from torch import nn

from ulzoo.evaluation import clip_protocols
from ulzoo.registry.runs import train as run_module
from ulzoo.registry.runs.train import train

VIDEO = """
extends: tiny_video.yaml
name: clips
conditioning: {frames: 4}
data: {frames: 12}
base: {class_conditional: true}
train: {latents: {steps: 1}, base: {steps: 1}}
"""
FILES = {".png", ".mp4", ".webp"}


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder with a finished run of a video model."""
    from ulzoo.registry import load_spec

    folder, tests = tmp_path_factory.mktemp("clips"), Path(__file__).parents[1]
    for name in ("tiny.yaml", "tiny_video.yaml"):
        (folder / name).write_text((tests / name).read_text())
    (folder / "clips.yaml").write_text(VIDEO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "EVALUATED_CLIPS", 3)
        patch.setattr("ulzoo.registry.runs.pictures.DRAWN_CLIPS", 2)
        train(load_spec(folder / "clips.yaml"), folder / "run")
    return folder


@pytest.fixture
def inside(clips, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return clips / "run"


def test_a_run_saves_videos_and_measures_frame_prediction(clips):
    samples = clips / "run" / "samples"
    assert {path.name for path in samples.iterdir()} == {
        f"{name}{suffix}" for name in ("reconstructions", "samples") for suffix in FILES
    }
    results = json.loads((clips / "run" / "figures.json").read_text())
    assert len(results["figures"]["psnr_db_by_frame"]) == 12
    assert len(results["figures"]["prediction_psnr_db_by_frame"]) == 8
    assert results["protocol"]["images"] == results["protocol"]["frame_prediction"]["clips"] == 3


def test_train_prints_clips(ulzoo, clips, monkeypatch):
    monkeypatch.setattr(run_module, "EVALUATED_CLIPS", 2)
    result = ulzoo("train", clips / "clips.yaml", "--out", clips / "run", "--resume")
    assert result.exit_code == 0, result.stderr
    assert "on 2 validation clips" in result.stdout and "images" not in result.stdout
    assert "samples.png, also .mp4, .webp" in result.stdout
    for words in ("PSNR of generated frames", "PSNR of the last context frame, repeated", "the first two"):
        assert words in result.stdout


def test_costs_are_of_clips(ulzoo, clips):
    dry, shown = ulzoo("train", clips / "clips.yaml", "--dry-run").stdout, ulzoo("show", clips / "clips.yaml").stdout
    assert "clips 12×32×32" in dry and "training clips available" in dry and "GFLOPs/clip" in dry
    assert "image" not in dry
    assert "GFLOPs/clip" in shown and "12×32×32 pixels" in shown


def test_samples_continue_clips_of_the_data(ulzoo, inside, tmp_path):
    result = ulzoo("sample", inside, "--n", 2, "--out", "new/x.png")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == ["new/x.png", "new/x.mp4", "new/x.webp"]
    with Image.open(tmp_path / "new" / "x.png") as sheet:
        assert sheet.size == (4 + 12 * 68, 4 + 4 * (64 + 4 + 22))  # ground truth and sample, twice
    with av.open(str(tmp_path / "new" / "x.mp4")) as video:
        assert len(list(video.decode(video=0))) == 12 and video.streams.video[0].average_rate == 8


def test_whole_clips_have_no_ground_truth(ulzoo, inside, tmp_path):
    result = ulzoo("sample", inside, "--n", 2, "--whole", "--labels", "0,1", "--out", "x.gif")
    assert result.stdout.split() == ["x.png", "x.mp4", "x.gif"]
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.size == (4 + 12 * 68, 4 + 2 * (64 + 4 + 22))


def test_reconstruct(ulzoo, inside, tmp_path):
    result = ulzoo("reconstruct", inside, "--n", 1)
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"reconstructions{suffix}" for suffix in FILES}


def test_evaluate_with_a_distance_without_a_download(ulzoo, inside):
    args = ("--limit", 2, "--rate-samples", 1, "--frechet", "fd_transnetv2", "--clips", 3, "--reference", "val")
    result = ulzoo("evaluate", inside, *args, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("warning: fd_transnetv2 of 3 clips") and result.stderr.count("\n") == 1
    results = json.loads(result.stdout)
    assert results["figures"]["fd_transnetv2"] > 0 and "fvd" not in result.stdout.lower().replace("fd_transnetv2", "")
    protocol = results["protocol"]["frechet"]
    assert (protocol["reference"], protocol["clips"], protocol["given_frames"]) == ("val", 3, 4)


class Detector(nn.Module):
    """Has the signature and dimension of FVD's detector."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        return x.mean(4).mean(3).mean(2)[:, :1] * torch.linspace(0, 1, 400)


def test_evaluate_with_fvd_s_detector(ulzoo, inside, tmp_path):
    torch.jit.script(Detector()).save(tmp_path / "i3d.pt")
    sha256 = hashlib.sha256((tmp_path / "i3d.pt").read_bytes()).hexdigest()
    args = ("--limit", 2, "--rate-samples", 1, "--frechet", "fvd", "--clips", 3, "--detector", "i3d.pt")
    result = ulzoo("evaluate", inside, *args, "--detector-sha256", sha256, "--out", "figures.json")
    assert result.exit_code == 0, result.stderr
    assert "FVD" in result.stdout
    results = json.loads((tmp_path / "figures.json").read_text())
    assert results["protocol"]["frechet"]["network_sha256"] == sha256 and results["figures"]["fvd"] >= 0


def test_evaluate_by_the_protocol_of_kinetics600(ulzoo, inside, tmp_path, monkeypatch):
    numbers = {"frames": 12, "context_frames": 4, "windows": 1, "crops": 1}  # of the tiny model, with few clips
    monkeypatch.setitem(clip_protocols.K600, "k600_64", clip_protocols.ClipProtocol("k600_64", 32, **numbers))
    torch.jit.script(Detector()).save(tmp_path / "i3d.pt")
    sha256 = hashlib.sha256((tmp_path / "i3d.pt").read_bytes()).hexdigest()
    args = ("--limit", 2, "--rate-samples", 1, "--frechet", "fvd", "--detector", "i3d.pt", "--detector-sha256", sha256)
    args += ("--clip-protocol", "k600_64", "--folds", 2, "--clips", 3, "--out", "figures.json")
    result = ulzoo("evaluate", inside, *args)
    assert result.exit_code == 0, result.stderr
    assert "FVD, Kinetics-600's protocol at 64², 2 × 3 samples" in result.stdout and " ± " in result.stdout
    results = json.loads((tmp_path / "figures.json").read_text())
    name = "fvd_k600_64_2x3"
    assert len(results["figures"][f"{name}_by_fold"]) == 2 and "fvd" not in results["figures"]
    assert results["protocol"]["frechet"]["clips"] == 6 and "caution" in results["protocol"]["frechet"]
    assert results["hashes"][name] == results["hashes"][f"{name}_std"]


MISTAKES = {
    "another hash": (("--frechet", "fvd", "--detector", "x.pt"), "x.pt: its SHA-256 is"),
    "no detector": (("--frechet", "fvd"), "--download fetches it"),
    "hash alone": (("--frechet", "fvd", "--detector-sha256", "00"), "belongs to a file"),
    "detector of another": (("--frechet", "fd_transnetv2", "--download"), "--download goes with --frechet fid"),
    "protocol of images": (("--frechet", "fid", "--clip-protocol", "k600_64"), "goes with --frechet fvd"),
    "folds of nothing": (("--frechet", "fvd", "--folds", "2"), "--folds goes with --clip-protocol"),
    "another number of frames": (
        ("--frechet", "fd_transnetv2", "--clip-protocol", "k600_64"),
        "k600_64 compares clips of 16 frames that continue 5: this model generates",
    ),
    "clips of nothing": (("--clips", "5"), "go with --frechet"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_about_distances(ulzoo, inside, tmp_path, monkeypatch, case):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    (tmp_path / "x.pt").write_bytes(b"x")
    args, words = MISTAKES[case]
    result = ulzoo("evaluate", inside, *args)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and words in result.stderr and result.stderr.count("\n") == 1


def test_images_and_clips_do_not_mix(ulzoo, inside, trained):
    image = trained / "run"
    for args, words in {
        ("sample", inside, image): "makes clips and",
        ("reconstruct", image, inside): "makes clips and",
        ("sample", image, "--out", "x.gif"): "images are written as PNG",
        ("evaluate", image, "--frechet", "fd_transnetv2"): "a model of images",
    }.items():
        result = ulzoo(*args)
        assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1
