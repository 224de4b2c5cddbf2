"""The tutorials run as written, with few training steps; the first one is short.

In a page, a block whose first line is `# PATH` is the content of a file, other Python blocks are executed in one
namespace, and lines of `sh` blocks are commands. The settings of `SHORT` are added to `ulzoo train` and `ulzoo sweep`.
"""

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib import invalidate_caches
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ulzoo.cli import app
from ulzoo.registry import load_spec
from ulzoo.registry.spec.components import BACKBONES
from ulzoo.registry.sweeps import engine_local
from ulzoo.training import profiling

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
FIRST = TUTORIALS / "own_images.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHORT = {
    "latents": ("steps=3", "warmup_steps=1", "prior_warmup_steps=1", "batch_size=8", "checkpoint_every=3"),
    "base": ("steps=3", "warmup_steps=1", "batch_size=8", "checkpoint_every=3"),
}
NOT_RUN = ("pip install ", "torchrun ", "sbatch ")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and content of the code blocks of a page."""
    for match in BLOCK.finditer(page.read_text("utf-8")):
        yield match[1], match[2]


def run_page(page: Path, count: int | None = None) -> dict[str, object]:
    """Run the first `count` blocks of a page in the current folder; return the names of its Python code."""
    names: dict[str, object] = {}
    for language, text in list(blocks(page))[:count]:
        if path := re.match(r"# ([\w/]+\.(?:yaml|toml|py))\n", text):
            Path(path[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(path[1]).write_text(text)
            if path[1].endswith(".toml"):
                install(Path(path[1]))
        elif language == "python":
            exec(re.sub(r"^steps = \d+$", "steps = 3", text, flags=re.MULTILINE), names)
        else:
            assert language == "sh", f"{page.name}: {text}"
            for line in filter(None, text.splitlines()):
                run_command(line)
    return names


def run_command(line: str) -> None:
    if line.startswith(NOT_RUN):
        return
    program, command, *arguments = shlex.split(line, comments=True)
    assert program == "ulzoo", line
    if command in ("train", "sweep") and "--dry-run" not in arguments:
        stages = load_spec(arguments[0]).stages
        settings = [f"train.{stage}.{setting}" for stage in stages for setting in SHORT[stage]]
        arguments += [word for setting in [*settings, "sample.base.steps=2"] for word in ("--set", setting)]
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == 0, f"{line}\n{result.output}"


def install(project: Path) -> None:
    """What `pip install` does: put a package on the path, with the entry points of its pyproject.toml."""
    keys = tomllib.loads(project.read_text())["project"]
    info = project.parent / f"{keys['name'].replace('-', '_')}-{keys['version']}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {keys['name']}\nVersion: {keys['version']}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in keys["entry-points"].items()
    ]
    info.joinpath("entry_points.txt").write_text("\n".join(groups) + "\n")
    sys.path.insert(0, str(project.parent.resolve()))
    invalidate_caches()
    vars(BACKBONES).pop("_plugins", None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, with the plug-ins of a test seen by no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setitem(profiling.MATRIX_SIDES, "cpu", (128,))
    monkeypatch.setattr(profiling, "SECONDS_PER_SIDE", 0.01)
    installed = vars(BACKBONES).pop("_plugins", None)
    yield tmp_path
    vars(BACKBONES).pop("_plugins", None)
    if installed is not None:
        vars(BACKBONES)["_plugins"] = installed


@pytest.mark.slow
def test_own_images(here: Path, forkserver: ForkServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_local, "_SPAWN", forkserver)
    run_page(FIRST)
    assert len(list(Path("pictures").iterdir())) == 300
    assert Path("runs/my_images/model.safetensors").exists() and Path("runs/my_images/samples/samples.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fine_tuning", "to_a_cluster"])
def test_tutorials_on_that_folder(here: Path, name: str) -> None:
    run_page(FIRST, count=1)
    run_page(TUTORIALS / f"{name}.md")


@pytest.mark.slow
def test_own_base(here: Path) -> None:
    names = run_page(TUTORIALS / "own_base.md")
    images = names["images"]
    assert isinstance(images, torch.Tensor) and images.shape == (16, 3, 32, 32)


def test_every_tutorial_is_tested() -> None:
    assert {page.stem for page in TUTORIALS.glob("*.md")} == {"own_images", "fine_tuning", "own_base", "to_a_cluster"}


def test_the_first_model_takes_at_most_600_words_of_reading() -> None:
    text = FIRST.read_text("utf-8").partition("## Choose")[0]
    assert 200 < len(re.findall(r"\S*\w\S*", text)) <= 600


def test_the_table_of_sizes() -> None:
    """Its values are those of the packaged specs."""
    row = re.compile(r"^\| (\d+)² \| `(\w+)` \| (\d+) \| (\d+) \| ([\d.]+) \| (-?[\d.]+) \|", re.MULTILINE)
    rows = row.findall(FIRST.read_text("utf-8"))
    assert len(rows) == 7
    for resolution, name, downsample, channels, loss_factor, bias in rows:
        spec = load_spec(name)
        weighting = spec.decoder.weighting
        assert (spec.data.resolution, spec.latent.channels) == (int(resolution), int(channels))
        assert spec.latent.downsample == (int(downsample),) * 2
        assert (weighting.loss_factor, weighting.bias) == (float(loss_factor), float(bias))
