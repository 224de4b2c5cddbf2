"""The rooms of docs/architecture.md: who may import whom, and how light the doors are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "diffusion": {"diffusion"},
    "nn": {"nn", "text", "files"},
    "contract": set(),
    "denoising": {"diffusion", "contract", "text"},
    "priors": {"contract", "denoising", "diffusion"},
    "regression": {"contract", "denoising", "diffusion"},
    "posterior": {"diffusion"},
    "conditions": {"contract", "denoising", "diffusion", "frames", "priors", "text"},
    "frames": set(),
    "text": set(),
    "model": {
        "conditions",
        "contract",
        "denoising",
        "diffusion",
        "posterior",
        "priors",
        "regression",
        "text",
    },
    "objectives": {"conditions", "contract", "diffusion", "model", "text"},
    "data": {"data", "files", "messages", "pixels", "seeds", "text"},
    "training": {
        "diffusion",
        "nn",
        "contract",
        "denoising",
        "model",
        "objectives",
        "regression",
        "text",
        "data",
        "training",
        "evaluation",
        "files",
        "pixels",
        "processes",
        "seeds",
        "tensorfile",
    },
    "evaluation": {
        "diffusion",
        "nn",
        "contract",
        "denoising",
        "model",
        "priors",
        "text",
        "data",
        "evaluation",
        "files",
        "pixels",
        "processes",
        "seeds",
    },
    "processes": set(),
}


def imported(path: Path) -> set[str]:
    """Second parts of the names `ulzoo.X` that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("ulzoo.")}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_downwards_only(room: str) -> None:
    place = ROOT / "ulzoo" / room
    files = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files
    for path in files:
        assert imported(path) <= ALLOWED[room], path


def test_the_registry_does_not_import_the_command_line() -> None:
    for path in (ROOT / "registry").rglob("*.py"):
        assert "cli" not in imported(path), path


def test_files_are_one_idea_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for room in ("ulzoo", "registry", "cli")
        for path in (ROOT / room).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 350
    }
    assert not long


@pytest.mark.parametrize(
    "module", ["ulzoo", "ulzoo.registry", "ulzoo.registry.spec.loading", "ulzoo.registry.zoo.catalogue"]
)
def test_light_modules_leave_torch_alone(module: str) -> None:
    code = f"import {module}, sys; assert not {{'torch', 'timm'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
