"""`ulzoo train --remote-checkpoints`."""

import shutil


def test_continue_on_another_machine(ulzoo, here, s3):
    command = ("train", "tiny.yaml", "--device", "cpu", "--remote-checkpoints", s3)
    result = ulzoo(*command, "--stage", "latents")
    assert result.exit_code == 0, result.stderr
    shutil.rmtree(here / "runs")
    result = ulzoo(*command, "--resume")
    assert result.exit_code == 0, result.stderr
    assert "downloaded latents-" in result.output and str(s3) in result.output.replace("\n", "")


def test_what_cannot_be_a_store(ulzoo, here):
    result = ulzoo("train", "tiny.yaml", "--remote-checkpoints", "backups")
    assert result.exit_code == 2
    assert "--remote-checkpoints backups: must be a URL of an object store, such as s3://bucket/run" in result.stderr
    assert not (here / "runs").exists()
