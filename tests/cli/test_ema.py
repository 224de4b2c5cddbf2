"""`ulzoo ema`: exports with averages of any length, their metrics, and what is refused."""

import shutil

import pytest
import torch

import ulzoo as library
from ulzoo.registry.runs.export import load_export
from ulzoo.training.checkpoint import Checkpoint


@pytest.fixture
def tracked(ulzoo, run):
    """A run whose base is trained again, with snapshots."""
    shutil.rmtree(run / "checkpoints" / "base-00000002")
    for name in ("figures.json", "model.safetensors"):
        (run / name).unlink()
    options = ["--stage", "base", "--set", "train.base.posthoc_ema.snapshot_every=1", "--set", "train.base.steps=3"]
    result = ulzoo("train", "tiny.yaml", "--out", "run", *options, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    return run


def test_averages_are_exported_and_measured(ulzoo, tracked, here):
    result = ulzoo("ema", "run", "--lengths", "0.05,0.15", "--evaluate", "--limit", 4, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "base, step 3, 3 snapshots" in result.stdout and "base, bits/pixel" in result.stdout
    assert "warning: length 0.15: 3 snapshots come within" in result.stderr and "length 0.05" not in result.stderr
    short, long = (load_export(tracked / "ema" / f"base-{length}.safetensors") for length in ("0.05", "0.15"))
    assert short.results["protocol"]["images"] == 4
    assert "PSNR of the" in result.stdout and short.results["figures"]["mean_image_psnr_db"] > 0
    assert short.results["mean_image"] == load_export(tracked / "model.safetensors").results["mean_image"]
    assert short.model.latent_statistics is not None
    assert f"{short.results['figures']['base_bits_per_pixel']:.4f}" in result.stdout
    assert short.results["figures"] != long.results["figures"]

    averages = Checkpoint.open(tracked / "snapshots" / "base-00000003").read("posthoc_ema.0.")
    state = short.model.state_dict()
    for name, tensor in averages.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=1e-5)
    ours, trained = long.model.state_dict(), library.load(tracked).state_dict()
    assert {name for name in ours if not torch.equal(ours[name], trained[name])} <= averages.keys()
    assert any(not torch.equal(ours[name], trained[name]) for name in averages)

    result = ulzoo("ema", "run", "--lengths", "0.1", "--out", "elsewhere", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    unmeasured = load_export(here / "elsewhere" / "base-0.1.safetensors")
    assert unmeasured.results == {}
    assert unmeasured.model.latent_statistics == library.load(tracked).latent_statistics is not None


def test_what_is_refused(ulzoo, tracked):
    for arguments, message in (
        (["run", "--lengths", "0.05;0.1"], "takes numbers with commas between them"),
        (["run", "--lengths", "0.3"], "a length is a fraction of the training from 0.01 to 0.25"),
        (["run", "--lengths", "0.1", "--stage", "latents"], "run: has no snapshots of the stage latents"),
        ([tracked.parent, "--lengths", "0.1"], "has no snapshots of averages; train.STAGE.posthoc_ema saves them"),
    ):
        result = ulzoo("ema", *arguments)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
    result = ulzoo("export", "run/snapshots/base-00000003", "--out", "model.safetensors")
    assert result.exit_code == 2 and "a snapshot of averages, not a checkpoint; use `ulzoo ema`" in result.stderr
