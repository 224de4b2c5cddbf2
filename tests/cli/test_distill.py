"""`--stage distill --init`: a decoder of few steps for a trained model, and how commands choose it."""

import json

import pytest
import torch

from ulzoo.registry import open_model
from ulzoo.registry.zoo.distill import SHARE, training_flops

DISTILL = ("train", "tiny.yaml", "--stage", "distill", "--device", "cpu", "--out", "student", "--init", "run")
SETTINGS = ("--set", "distilled.steps=[1, 2]", "--set", "train.latents.steps=40", "--set", "train.distill.workers=1")


@pytest.fixture
def student(ulzoo, run):
    """The working directory with a model whose decoder is distilled."""
    result = ulzoo(*DISTILL, *SETTINGS[:2])
    assert result.exit_code == 0, result.stderr
    return run.parent / "student"


def test_a_trained_model_is_distilled(ulzoo, run, student):
    teacher, distilled = open_model(run), open_model(student)
    assert distilled.spec.name == "tiny-distilled" and distilled.spec.stages == ("distill",)
    for name, tensor in teacher.model.state_dict().items():
        assert torch.equal(tensor, distilled.model.state_dict()[name]), "all other networks are frozen"
    figures = json.loads((student / "figures.json").read_text())
    protocol = figures["protocol"]
    assert (protocol["decoder_network"], protocol["decoder_steps"]) == ("distilled", 2)
    teachers = teacher.results["figures"]
    assert figures["figures"]["bits_per_pixel"] == pytest.approx(teachers["bits_per_pixel"], rel=1e-6)

    plan = ulzoo(*DISTILL, *SETTINGS, "--dry-run")
    assert plan.exit_code == 0, plan.stderr
    assert "frozen: encoder, prior, decoder, base" in plan.stdout
    share = float(plan.stdout.split("distill: ")[-1].split("%")[0])
    assert share <= 100 * SHARE or distilled.spec.train.distill.steps == 1
    assert f"{share}% of the training FLOPs of stage latents of tiny" in plan.stdout
    ratio = training_flops(distilled.spec, "distill") / training_flops(teacher.spec, "latents")
    assert share == pytest.approx(100 * ratio, abs=0.1)


def test_which_decoder_decodes(ulzoo, student):
    short = ("evaluate", student, "--limit", "3", "--json")
    by_default = json.loads(ulzoo(*short).stdout)
    other = json.loads(ulzoo(*short, "--decoder", "decoder").stdout)
    assert by_default["protocol"]["decoder_steps"] == 2 and by_default["protocol"]["decoder_network"] == "distilled"
    assert "decoder_network" not in other["protocol"] and by_default["hashes"]["psnr_db"] != other["hashes"]["psnr_db"]
    assert ulzoo("reconstruct", student, "--n", "2", "--decoder", "distilled", "--steps", "1").exit_code == 0
    assert ulzoo("sample", student, "--n", "2", "--decoder", "decoder").exit_code == 0

    exported = ulzoo("export", student, "--out", "small.safetensors", "--without", "decoder")
    assert exported.exit_code == 0 and "with metrics" in exported.stdout
    assert open_model("small.safetensors").model.decoder is None
    again = json.loads(ulzoo("evaluate", "small.safetensors", "--limit", "3", "--json").stdout)
    assert again["figures"] == by_default["figures"]
    converted = ulzoo("export", "small.safetensors", "--out", "half.safetensors", "--dtype", "float16")
    assert converted.exit_code == 0, converted.stderr
    for command in ("reconstruct", "sample"):
        result = ulzoo(command, "half.safetensors", "--n", "2", "--decoder", "decoder")
        assert result.exit_code == 2 and "in 1, 2 steps by its distilled decoder alone" in result.stderr


def test_mistakes(ulzoo, run):
    result = ulzoo("export", run, "--out", "small.safetensors", "--without", "decoder")
    assert (
        result.exit_code == 2 and "run: has no distilled decoder, without which it needs its decoder" in result.stderr
    )
    result = ulzoo("evaluate", run, "--decoder", "distilled")
    assert result.exit_code == 2 and "this model has no distilled decoder" in result.stderr
    result = ulzoo("train", "tiny.yaml", "--stage", "distill")
    assert result.exit_code == 2 and "tiny has no stage 'distill'" in result.stderr
    result = ulzoo(*DISTILL, "--set", "distilled.steps=[2, 1]")
    assert result.exit_code == 2 and "--set distilled.steps=[2, 1]: expected rising numbers" in result.stderr
    result = ulzoo(*DISTILL, "--set", "distilled.target=teacher")
    assert result.exit_code == 2 and "teacher: give the number of its steps that are learned" in result.stderr
    result = ulzoo(*DISTILL, "--set", "train.distill.teacher_steps=2")
    assert result.exit_code == 2 and "distilled.target is data: leave it out" in result.stderr
    result = ulzoo(*DISTILL, "--set", "decoder={kind: mse, backbone: {kind: vit, width: 32, depth: 1, heads: 2}}")
    assert result.exit_code == 2 and "distilled: only a diffusion decoder can be distilled" in result.stderr
