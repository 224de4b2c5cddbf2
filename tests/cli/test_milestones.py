"""`ulzoo evaluate --milestones`: a curve over training that resumes, its files, and what is refused."""

import json
import shutil

import pytest

from ulzoo.registry.runs.run_directory import remove_run
from ulzoo.training.checkpoint import Checkpoint, TrainingState
from ulzoo.training.checkpointing import CheckpointManager

QUICK = ("--limit", 2, "--rate-samples", 1, "--device", "cpu")


@pytest.fixture
def milestones(run):
    """A run that keeps every checkpoint of its base: after 1, 2 and 3 steps, of which it has trained all."""
    checkpoint = Checkpoint.open(run / "checkpoints" / "base-00000002")
    tensors, metadata = checkpoint.read(""), dict(checkpoint.metadata)
    metadata["spec"]["train"]["base"] |= {"steps": 3, "checkpoint_every": 1, "milestone_every": 1}
    for step in (1, 2, 3):
        tensors = {name: tensor * 0.9 if name.startswith("ema.base") else tensor for name, tensor in tensors.items()}
        state = TrainingState("base", step, tensors, {**metadata, "images": 4 * step})
        CheckpointManager(run / "checkpoints", milestone_every=1).save(state)
    return run


def evaluate(ulzoo, *arguments):
    result = ulzoo("evaluate", "run", "--milestones", *QUICK, *arguments)
    assert result.exit_code == 0, result.stderr
    return result


def test_a_curve_is_measured_once(ulzoo, milestones, monkeypatch):
    result = evaluate(ulzoo)
    assert [line.split()[0] for line in result.stdout.splitlines()[3:6]] == ["1", "2", "3"]
    assert "run, base" in result.stdout and "run/milestones/pflops_base_bits_per_pixel.png" in result.stdout
    content = (milestones / "milestones.json").read_text()
    rows = json.loads(content)["milestones"]
    assert [(row["stage"], row["step"], row["images"]) for row in rows] == [("base", n, 4 * n) for n in (1, 2, 3)]
    flops = [row["training_flops"] for row in rows]
    forward = json.loads(ulzoo("show", "run", "--json").stdout)["summary"]["gflops_forward"]["base"]
    assert flops == [pytest.approx(3 * forward * 1e9 * 4 * step) for step in (1, 2, 3)]
    rates = [row["figures"]["base_bits_per_pixel"] for row in rows]
    assert len({*rates}) == 3 and len({row["figures"]["bits_per_pixel"] for row in rows}) == 1
    assert len({row["hashes"]["psnr_db"] for row in rows}) == 1 and rows[0]["protocol"]["images"] == 2

    ulzoo("export", "run/checkpoints/base-00000002", "--out", "two.safetensors")
    alone = json.loads(ulzoo("evaluate", "two.safetensors", *QUICK, "--json").stdout)
    same = ("psnr_db", "bits_per_pixel", "base_bits_per_pixel")
    assert [alone["figures"][name] for name in same] == [rows[1]["figures"][name] for name in same]
    assert alone["hashes"]["psnr_db"] == rows[1]["hashes"]["psnr_db"]

    with monkeypatch.context() as patch:
        patch.setattr("ulzoo.registry.runs.evaluate.evaluate_model", None)  # nothing is measured again
        assert json.loads(evaluate(ulzoo, "--json").stdout) == {"run": rows}
    assert (milestones / "milestones.json").read_text() == content

    last = rows.pop()
    (milestones / "milestones.json").write_text(json.dumps({"milestones": rows}))
    shutil.rmtree(milestones / "checkpoints" / "base-00000001")  # its row stays in the file, not in the curve
    assert json.loads(evaluate(ulzoo, "--json").stdout) == {"run": [rows[1], last]}
    evaluate(ulzoo, "--seed", 1, "--json")
    rows = json.loads((milestones / "milestones.json").read_text())["milestones"]
    assert [row["step"] for row in rows] == [1, 2, 3, 2, 3] and len({row["settings"] for row in rows}) == 2

    remove_run(milestones)
    assert not milestones.exists() or not list(milestones.iterdir())


def test_a_replaced_checkpoint_is_measured_again_and_a_damaged_one_left_out(ulzoo, milestones):
    before = json.loads(evaluate(ulzoo, "--json").stdout)["run"]
    folder = milestones / "checkpoints"
    checkpoint = Checkpoint.open(folder / "base-00000002")
    tensors = {name: tensor * 0.5 for name, tensor in checkpoint.read("").items() if tensor.is_floating_point()}
    state = TrainingState("base", 3, {**checkpoint.read(""), **tensors}, checkpoint.metadata)
    CheckpointManager(folder, milestone_every=1).save(state)
    (folder / "base-00000001" / "checkpoint.json").unlink()
    result = evaluate(ulzoo, "--json")
    assert result.stderr.startswith("warning: run/checkpoints/base-00000001: an incomplete checkpoint")
    after = json.loads(result.stdout)["run"]
    assert after[0] == before[1] and after[1]["checkpoint"] != before[2]["checkpoint"]
    assert after[1]["figures"] != before[2]["figures"] and len(after) == 2


def test_what_is_refused(ulzoo, run, here):
    (here / "empty").mkdir()
    for arguments, words in (
        (("run",), "run: keeps no milestones; set train.STAGE.milestone_every before training it"),
        (("empty",), "empty: contains no training checkpoints, so it has no milestones"),
        (("absent",), "absent: contains no training checkpoints"),
        (("run", "--out", "a.json"), "--milestones writes milestones.json and plots into each run"),
        (("run", "--samples", 4), "go with --frechet fid"),
    ):
        result = ulzoo("evaluate", *arguments, "--milestones")
        assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.stderr
