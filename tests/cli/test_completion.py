"""Completion of names, as a shell asks for it."""

import pytest
from typer.testing import CliRunner

from ulzoo.cli import app
from ulzoo.cli.completion import complete_models


def completed(line: str) -> list[str]:
    environment = {"_ULZOO_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    return CliRunner().invoke(app, [], prog_name="ulzoo", env=environment).stdout.split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("ulzoo train emoji32", ["emoji32_curve", "emoji32_tiny"]),
        ("ulzoo show imagenet512_s", ["imagenet512_small"]),
        ("ulzoo sample emoji32", ["emoji32_curve", "emoji32_tiny"]),
        ("ulzoo evaluate emoji32", ["emoji32_curve", "emoji32_tiny"]),
        ("ulzoo encode emoji32", ["emoji32_curve", "emoji32_tiny"]),
        ("ulzoo trai", ["train"]),
        ("ulzoo train nothing-of-this-name", []),
    ],
)
def test_names_are_completed(line, names):
    assert completed(line) == names


def test_runs_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/model.safetensors").write_bytes(b"")
    (tmp_path / "runs/unfinished").mkdir()
    assert complete_models("runs/") == ["runs/a"] and "emoji32_tiny" in complete_models("")
