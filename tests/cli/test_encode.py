"""`ulzoo encode`, and `ulzoo train --stage base` on its latents."""

import json

import pytest


def test_encode_and_train_on_it(ulzoo, trained, tmp_path):
    spec, run, latents = trained / "tiny.yaml", tmp_path / "run", tmp_path / "latents"
    result = ulzoo("train", spec, "--out", run, "--device", "cpu", "--stage", "latents")
    assert result.exit_code == 0, result.stderr
    result = ulzoo("encode", run, "--out", latents, "--device", "cpu", "--images-per-shard", 2000)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{latents}: 3,061 images of train in 2 files, ")
    lines = result.stderr.splitlines()
    assert lines[0] == "0/3,061 images" and lines[-1] == "3,061/3,061 images" and len(lines) <= 21
    assert ulzoo("prepare", "verify", latents).stdout == f"{latents}: matches its manifest, 3,061 images of train\n"
    keys = ("--set", "train.base.data.kind=latents", "--set", f"train.base.data.path={latents}")
    result = ulzoo("train", spec, "--out", run, "--device", "cpu", "--stage", "base", *keys)
    assert result.exit_code == 0, result.stderr
    assert json.loads((run / "figures.json").read_text())["trained"]["stage"] == "base"
    result = ulzoo("train", spec, "--out", tmp_path / "all", "--device", "cpu", *keys)
    assert result.exit_code == 2 and "latents of the encoder that this run is about to train" in result.stderr
    assert not (tmp_path / "all").exists()
    plan = ulzoo("train", spec, "--dry-run", "--stage", "base", "--device", "cpu", *keys)
    assert plan.exit_code == 0, plan.stderr


def test_a_mistake_is_one_line(ulzoo, trained, tmp_path):
    result = ulzoo("encode", tmp_path / "absent", "--out", tmp_path / "out")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    assert ulzoo("encode", trained / "run", "--out", tmp_path / "out", "--dtype", "int8").exit_code == 2


def test_an_object_store_in_place_of_a_folder(ulzoo, trained, s3):
    result = ulzoo("encode", trained / "run", "--out", s3, "--device", "cpu", "--images-per-shard", 2000)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{s3}: 3,061 images of train in 2 files, ")
    assert s3.list_names() == ["manifest.json", "train-00000.safetensors", "train-00001.safetensors"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("https://example.org/a", "https://example.org/a: web servers only serve files; use an object store, such as"),
        ("s3://no-such-bucket/a", "s3://no-such-bucket/a/.ulzoo-can-write: no such file, or no permission"),
    ],
)
def test_a_store_that_cannot_be_written(out, message, ulzoo, trained, s3):
    result = ulzoo("encode", trained / "run", "--out", out)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and message in result.stderr, result.stderr
