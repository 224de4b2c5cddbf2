"""Files and output of the commands."""

import hashlib
import json
import re

import jsonschema
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import ulzoo as library
from ulzoo.registry.cost.networks import BlockRow
from ulzoo.registry.cost.summary import fold
from ulzoo.training import monitoring

COMMANDS = ["train", "sweep", "plot", "report", "find", "list", "show", "sample", "reconstruct", "encode", "evaluate"]
COMMANDS += ["compress", "decompress", "export", "ema", "push", "schema"]


def test_train_writes_a_run_directory(ulzoo, here):
    result = ulzoo("train", "tiny.yaml")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    names = {path.name for path in (here / "runs" / "tiny").iterdir()}
    files = {"spec.yaml", "metrics.jsonl", "figures.json", "model.safetensors", ".seconds", "train.log"}
    assert names == files | {"checkpoints", "samples"}
    for words in (
        *("stage latents: 2 steps × 4 = 8 images", "latents 2/2", "base 2/2", "bits/pixel", "bits/dimension"),
        *("  of the training mean", "caution: the PSNR of reconstructions, "),
    ):
        assert words in result.stdout
    for path in ("samples/reconstructions.png", "samples/samples.png", "figures.json", "model.safetensors"):
        assert f"runs/tiny/{path}" in result.stdout
    assert library.load(here / "runs" / "tiny").sample(2).shape == (2, 3, 32, 32)


def test_train_resumes_a_finished_run(ulzoo, run):
    before = (run / "checkpoints" / "base-00000002" / "checkpoint.json").read_bytes()
    result = ulzoo("train", "tiny.yaml", "--out", "run", "--resume")
    assert result.exit_code == 0, result.stderr
    assert "resuming base at step 2" in result.stdout
    assert (run / "checkpoints" / "base-00000002" / "checkpoint.json").read_bytes() == before


def test_train_in_two_commands(ulzoo, here):
    assert ulzoo("train", "tiny.yaml", "--stage", "latents", "--out", "a").exit_code == 0
    assert library.load(here / "a").base is None
    assert ulzoo("train", "tiny.yaml", "--stage", "base", "--out", "a").exit_code == 0
    assert library.load(here / "a").base is not None


def test_train_prints_about_twenty_lines_per_stage(ulzoo, here):
    once = ("--set", "train.latents.steps=55", "--set", "train.latents.checkpoint_every=55")
    result = ulzoo("train", "tiny.yaml", "--stage", "latents", *once)
    lines = [line for line in result.stdout.splitlines() if line.startswith("latents ")]
    assert 10 <= len(lines) <= 21 and "55/55" in lines[-1]


def test_dry_run_writes_nothing(ulzoo, here):
    result = ulzoo("train", "tiny.yaml", "--dry-run", "--set", "train.base.precision=bf16")
    assert result.exit_code == 0
    assert [path.name for path in here.iterdir()] == ["tiny.yaml"]
    for words in ("forward GFLOPs/image", "training PFLOPs", "memory", "3,061 training images available"):
        assert words in result.stdout


def test_dry_run_warns_of_a_warm_up_that_is_too_long(ulzoo, here):
    keys = ("--set", "train.base.warmup_steps=9", "--set", "train.base.steps=3")
    result = ulzoo("train", "tiny.yaml", "--dry-run", *keys)
    assert "caution: train.base.warmup_steps: 9 is more than train.base.steps, 3" in result.stdout


def test_dry_run_reports_missing_bf16(ulzoo, here, monkeypatch):
    monkeypatch.setattr("ulzoo.runtime.devices.has_bf16", lambda device: False)
    result = ulzoo("train", "tiny.yaml", "--dry-run", "--set", "train.base.precision=bf16")
    assert "fp32 (bf16 requested, this processor has none)" in " ".join(result.stdout.split())


def test_dry_run_plans_for_accelerators(ulzoo, here, monkeypatch):
    monkeypatch.setattr("ulzoo.runtime.devices.has_bf16", lambda device: False)
    result = ulzoo("train", "tiny.yaml", "--dry-run", "--on", "2xh100", "--set", "train.base.precision=bf16")
    assert result.exit_code == 0
    for words in ("2 × H100 SXM by 2 processes", "80.0 GB each", "time, about", "kWh", "40% of the peak", "bf16"):
        assert words in result.stdout
    assert "requested" not in result.stdout


def test_dry_run_needs_no_data(ulzoo, here):
    data = "data={kind: image_folder, root: nowhere, resolution: 32, num_classes: 9}"
    result = ulzoo("train", "tiny.yaml", "--dry-run", "--set", data)
    assert result.exit_code == 0 and "data not available" in result.stdout


def test_a_loss_that_is_not_finite(ulzoo, here):
    result = ulzoo("train", "tiny.yaml", "--set", "train.latents.lr=1e30", "--set", "train.latents.steps=5")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: stage latents, step ") and result.stderr.count("\n") == 1


def test_a_collapse_is_one_line_of_warning(ulzoo, here, monkeypatch):
    monkeypatch.setattr(monitoring, "COLLAPSED_BITS_PER_DIMENSION", 1e9)
    result = ulzoo("train", "tiny.yaml", "--stage", "latents")
    assert result.exit_code == 0
    assert re.fullmatch(r"warning: step 1: .*decoder\.weighting\.loss_factor.*\n", result.stderr)


def test_interruption_names_resume(ulzoo, here, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ulzoo.registry.runs.train.train", interrupted)
    result = ulzoo("train", "tiny.yaml")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; use --resume to continue from the last checkpoint in runs/tiny\n"


def test_an_error_of_the_machine_is_one_line(ulzoo, here):
    (here / "file").touch()
    result = ulzoo("schema", "--out", "file/schema.json")
    assert result.exit_code == 1 and re.fullmatch(r"error: file.*\n", result.stderr)


def test_bugs_keep_their_traceback(here, monkeypatch):
    from typer.testing import CliRunner

    from ulzoo.cli import app

    monkeypatch.setattr("ulzoo.registry.spec.schema.json_schema", lambda: 1 / 0)
    assert isinstance(CliRunner().invoke(app, ["schema"]).exception, ZeroDivisionError)


def test_show(ulzoo, here):
    result = ulzoo("show", "tiny.yaml", "--set", "latent.channels=6")
    assert result.exit_code == 0, result.stderr
    resolved = result.stdout[: result.stdout.index("\nblock ")]
    assert yaml.safe_load(resolved)["latent"]["channels"] == 6
    assert "6×4×4: 96 dimensions" in result.stdout
    assert "0.09375 × bits/dimension" in result.stdout


def test_show_json(ulzoo, here):
    data = json.loads(ulzoo("show", "tiny.yaml", "--json").stdout)
    spec = library.load_spec("tiny.yaml")
    assert data["spec"] == spec.to_dict() and data["hash"] == spec.hash
    model = library.create_model("tiny.yaml")
    assert data["summary"]["parameters"]["total"] == sum(p.numel() for p in model.parameters())


def test_equal_blocks_fold():
    def row(path, parameters=3):
        return BlockRow(path, "Block", (4,), parameters, 5)

    rows = [row("a.blocks.0"), row("a.blocks.1"), row("a.blocks.2"), row("a.blocks.3", 4), row("b.blocks.0")]
    folded = [(count, row.path, row.parameters, row.flops) for count, row in fold(rows)]
    assert folded == [(3, "a.blocks.0-2", 9, 15), (1, "a.blocks.3", 4, 5), (1, "b.blocks.0", 3, 5)]


def test_list(ulzoo):
    result = ulzoo("list", "emoji32*")
    assert result.exit_code == 0 and "emoji32_tiny" in result.stdout and "imagenet" not in result.stdout
    entry = json.loads(ulzoo("list", "emoji32_t*", "--json").stdout)[0]
    assert entry["name"] == "emoji32_tiny" and entry["resolution"] == [32, 32]
    assert entry["pretrained"] == ("emoji32_tiny" in library.list_models(pretrained=True))


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_the_list_breaks_no_word(ulzoo, columns):
    lines = ulzoo("list", columns=columns).stdout.splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("─"))
    rows = lines[rule + 1 : rule + 1 + len(library.list_models())]
    assert [line.split()[0] for line in rows] == library.list_models() and max(map(len, lines)) <= columns
    assert all(row.split()[-1] in ("yes", "–") for row in rows)


def test_an_empty_list_in_json(ulzoo):
    result = ulzoo("list", "nothing*", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == []


def test_sample(ulzoo, run, here):
    result = ulzoo("sample", "run", "--n", 3, "--seed", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "samples.png\n"
    first = (here / "samples.png").read_bytes()
    assert ulzoo("sample", "run", "--n", 3, "--seed", 1).exit_code == 0
    assert (here / "samples.png").read_bytes() == first
    ulzoo("sample", "run", "--n", 3, "--seed", 2)
    assert (here / "samples.png").read_bytes() != first


def test_sample_by_class_side_by_side(ulzoo, run, here):
    args = ("--n", 5, "--labels", "flags, 0", "--guidance", 2, "--steps", 1, "--out", "new/sheet.png")
    result = ulzoo("sample", "run", "run/model.safetensors", *args)
    assert result.exit_code == 0, result.stderr
    width, height = Image.open(here / "new" / "sheet.png").size
    assert width >= 3 * 96 and height >= 4 * 96


def test_reconstruct(ulzoo, run, here):
    result = ulzoo("reconstruct", "run", "--n", 2, "--split", "train")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "reconstructions.png\n"
    assert Image.open(here / "reconstructions.png").size[1] >= 2 * 96


def test_evaluate(ulzoo, run, here):
    result = ulzoo("evaluate", "run", "--limit", 5, "--rate-samples", 2, "--out", "out/figures.json")
    assert result.exit_code == 0, result.stderr
    assert "PSNR" in result.stdout and "rate by the base" in result.stdout
    written = json.loads((here / "out" / "figures.json").read_text())
    assert written["protocol"]["images"] == 5 and written["protocol"]["rate_samples"] == 2
    printed = ulzoo("evaluate", "run", "--limit", 5, "--rate-samples", 2, "--json").stdout
    assert json.loads(printed) == written


def test_export_includes_the_metrics_of_the_run(ulzoo, run, here):
    result = ulzoo("export", "run", "--out", "new/model.safetensors")
    assert result.exit_code == 0, result.stderr
    assert hashlib.sha256((here / "new" / "model.safetensors").read_bytes()).hexdigest() in result.stdout
    ours, theirs = library.load(here / "new" / "model.safetensors"), library.load(run)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert results(here / "new" / "model.safetensors") == json.loads((run / "figures.json").read_text())


def test_export_of_an_earlier_step_has_no_metrics(ulzoo, run, here):
    result = ulzoo("export", "run/checkpoints/latents-00000001", "--out", "early.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "stage latents, step 1" in result.stdout and "without metrics" in result.stdout
    assert results(here / "early.safetensors") == {}
    assert library.load(here / "early.safetensors").base is None


@pytest.mark.parametrize("source", ["run", "run/model.safetensors"])
def test_export_in_half_precision(ulzoo, run, here, source):
    result = ulzoo("export", source, "--out", "half.safetensors", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.stderr
    assert (here / "half.safetensors").stat().st_size < 0.6 * (run / "model.safetensors").stat().st_size
    assert results(here / "half.safetensors") == {}
    assert library.load(here / "half.safetensors").sample(1).dtype == torch.float32


def results(path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["content"])["results"]


def test_schema(ulzoo, here):
    result = ulzoo("schema")
    jsonschema.Draft202012Validator.check_schema(json.loads(result.stdout))
    assert ulzoo("schema", "--out", "deep/schema.json").exit_code == 0
    assert (here / "deep" / "schema.json").read_text() == result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(ulzoo, command):
    result = ulzoo(command, "--help")
    assert result.exit_code == 0
    assert "Examples" in result.stdout and f"ulzoo {command}" in result.stdout
