"""The README is correct: its Python code runs, its commands are accepted, its links exist."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ulzoo
from ulzoo.cli import app
from ulzoo.registry import Spec, find_sweeps
from ulzoo.registry.runs.train import train
from ulzoo.registry.sweeps import estimate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    ulzoo ")]


def test_the_python_code_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["images"].shape == (16, 3, 32, 32)  # type: ignore[attr-defined]
    assert names["bits"].shape == (16,)  # type: ignore[attr-defined]
    assert names["large"].device.type == "meta"  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_accepted(
    command: str, tiny: Callable[..., Spec], images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "STEPS", 1)
    _, *arguments = shlex.split(command)
    if arguments[0] == "train":
        arguments = [argument for argument in arguments if argument != "--resume"]
        arguments += [] if "--dry-run" in arguments else ["--dry-run"]
    if arguments[0] == "export":  # the run of the reader
        train(tiny("train.latents.steps=1", "train.base.steps=1"), Path("runs/lf4"))
    if arguments[0] in ("reconstruct", "show"):  # the run and the images of the reader
        own = {"runs/lf4": "emoji32_tiny", "photographs": str(images)}
        arguments = [own.get(argument, argument) for argument in arguments]
    if arguments[0] == "evaluate":
        arguments += ["--limit", "8"]
    if arguments[0] == "sample":
        arguments += ["--n", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def test_links_and_images_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_table_lists_every_spec() -> None:
    for name in ulzoo.list_models():
        assert f"`{name}`" in README
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(ulzoo.list_models())


def test_the_table_lists_every_sweep() -> None:
    for name in find_sweeps():
        assert f"`{name}`" in README
