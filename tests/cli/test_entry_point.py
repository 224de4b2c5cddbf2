"""The installed command, in a separate process."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import ulzoo

COMMANDS = [[sys.executable, "-m", "ulzoo"], [str(Path(sysconfig.get_path("scripts")) / "ulzoo")]]


def run(*command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("command", COMMANDS, ids=["python -m ulzoo", "ulzoo"])
def test_version_and_exit_status(command, tmp_path):
    assert run(*command, "--version").stdout == f"ulzoo {ulzoo.__version__}\n"
    result = run(*command, "sample", "emoji32_tiny", "--out", "a.jpg", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: a.jpg: pictures are written as PNG; let the name end in .png\n"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['ulzoo', '--help']\n"
        "from ulzoo.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    result = run(sys.executable, "-c", code)
    assert "Examples" in result.stdout
    loaded = set(result.stderr.split())
    assert not loaded & {
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "pydantic",
        "yaml",
        "PIL",
        "safetensors",
        "webdataset",
    }


@pytest.mark.parametrize(
    "command",
    [
        ("show", "imagenet512_medium"),
        ("reconstruct", "emoji32_tiny", "--n", "1", "--steps", "1", "--out", "x.png"),
        ("evaluate", "emoji32_tiny", "--limit", "1"),
    ],
    ids=lambda command: command[0],
)
def test_models_are_used_without_the_compiler(command, tmp_path):
    """Its import, with SymPy's, takes as long as PyTorch's."""
    code = f"import sys; from ulzoo.cli import app; app({command!r}, standalone_mode=False)"
    result = run(sys.executable, "-c", f"{code}; print(*sys.modules, file=sys.stderr)", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stderr.split())
    assert "torch" in loaded and not loaded & {
        "sympy",
        "torch._dynamo",
        "torch.distributed.checkpoint",
        "torch.distributed.tensor",
        "torchvision",
    }


def test_a_spec_s_mistake_is_one_line(tmp_path):
    result = run(*COMMANDS[0], "show", "nowhere.yaml", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "error: nowhere.yaml: no such file\n")
