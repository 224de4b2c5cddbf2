"""Destinations are checked before the work, and results are printed before they are written."""

import json
import os
import subprocess
import sys

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
    assert result.exit_code == 1 and result.stderr == "warning: a.json: not written: No space left on device\n"
    assert json.loads(result.stdout)["figures"]["psnr_db"] if options else "PSNR" in result.stdout


def test_metrics_are_complete_if_a_file_cannot_be_written(ulzoo, run, here, monkeypatch):
    def evaluated(model, *_, **__):
        return {
            "figures": {"psnr_db": 20.0, "gfid_4": 3.0},
            "protocol": {"images": 2},
            "not_written": {"a.npz": "No space left on device"},
        }

    monkeypatch.setattr("ulzoo.registry.runs.evaluate.evaluate_model", evaluated)
    result = ulzoo("evaluate", "run", "--out", "a.json")
    assert result.exit_code == 1 and result.stderr == ""  # the evaluation warns itself
    assert "20.00 dB" in result.stdout and "gFID@4 of samples" in result.stdout
    results = json.loads((here / "a.json").read_text())
    assert results["figures"]["psnr_db"] and results["not_written"] == {"a.npz": "No space left on device"}


@pytest.mark.parametrize("backend", ["Qt5Agg", "no_such_backend"])
def test_plots_need_no_backend(backend, tmp_path):
    code = (
        "from pathlib import Path; from ulzoo.visualization import save_rate_plot; import os\n"
        "rate = {'logsnr': [0, 1, 2], 'bits_per_pixel': [1, 2], 'channels': [3], 'encoder': 0}\n"
        "save_rate_plot(Path('rate.png'), {'prior': rate})\n"
        "import ulzoo.registry.report.plots as plots\n"
        "assert plots.new_figure(figsize=(2, 2)) and os.environ['MPLBACKEND']"
    )
    environment = {**os.environ, "MPLBACKEND": backend, "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "rate.png").read_bytes().startswith(b"\x89PNG")
