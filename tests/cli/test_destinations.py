"""Destinations are checked before the work, and results are printed before they are written."""

import json

import pytest

COMMANDS = {
    "evaluate": ("evaluate", "run", "--limit", "2", "--out", "{}/a.json"),
    "evaluate, plot": ("evaluate", "run", "--limit", "2", "--rate-plot", "{}/a.png"),
    "evaluate, samples": (
        *("evaluate", "run", "--frechet", "fd_efficientnet_lite0", "--samples", "4", "--save-samples", "{}/a.npz"),
    ),
    "evaluate, statistics": (
        *("evaluate", "run", "--frechet", "fd_efficientnet_lite0", "--save-statistics", "{}/a.npz"),
    ),
    "sample": ("sample", "run", "--out", "{}/a.png"),
    "reconstruct": ("reconstruct", "run", "--out", "{}/a.png"),
    "encode": ("encode", "run", "--out", "{}/a"),
    "export": ("export", "run", "--out", "{}/a.safetensors"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_destination_that_cannot_be_written_is_refused_before_any_work(command, ulzoo, run, here, monkeypatch):
    def work(*_, **__):
        raise AssertionError("a model was opened")

    monkeypatch.setattr("ulzoo.registry.zoo.catalogue.open_model", work)
    monkeypatch.setattr("ulzoo.registry.runs.export.export", work)
    (here / "file").write_text("mine")
    before = sorted(here.iterdir())
    for folder in ("file", "/proc/absent"):
        result = ulzoo(*(part.format(folder) for part in command))
        assert (
            result.exit_code == 2
            and "cannot be written" in result.stderr
            and len(result.stderr.strip().splitlines()) == 1
        )
    assert sorted(here.iterdir()) == before and (here / "file").read_text() == "mine"


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
def test_metrics_are_printed_before_they_are_written(options, ulzoo, run, here, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("ulzoo.files.atomic.write_text", full)
    result = ulzoo("evaluate", "run", "--limit", "2", "--out", "a.json", *options)
    assert result.exit_code == 1 and "a.json: No space left on device" in result.stderr
    assert json.loads(result.stdout)["figures"]["psnr_db"] if options else "PSNR" in result.stdout
