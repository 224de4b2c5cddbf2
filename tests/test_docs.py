"""The pages mention only files, modules and links that exist."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PATH = re.compile(r"(?<![\w/.-])((?:ulzoo|registry|cli|tests|benchmarks|specs|docs)/[\w./{},-]*[\w/}])(?![\w:])")
MODULE = re.compile(r"(?<![\w/.])ulzoo(?:\.\w+)+")
NOT_MODULES = {"ulzoo.components", "ulzoo.loggers", "ulzoo.yaml"}
"""The entry-point groups, and a file of a published model."""


def pages() -> list[object]:
    return [pytest.param(page.read_text("utf-8"), page, id=page.name) for page in PAGES]


@pytest.mark.parametrize(("text", "page"), pages())
def test_paths_exist(text: str, page: Path) -> None:
    paths = {path for path in PATH.findall(re.sub(r"https?://\S+", "", text)) if "NAME" not in path}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("text", "page"), pages())
def test_links_exist(text: str, page: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if not target.startswith("https://")]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(("text", "page"), pages())
def test_python_names_exist(text: str, page: Path) -> None:
    missing = []
    names = {name for quoted in re.findall(r"`([^`\n]+)`", text) for name in MODULE.findall(quoted)}
    for name in sorted(names - NOT_MODULES):
        parts = name.split(".")
        depth = max(n for n in range(1, len(parts) + 1) if find_module(".".join(parts[:n])))
        value: object = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            value = getattr(value, part, None)
        if value is None:
            missing.append(name)
    assert missing == []


def find_module(name: str) -> bool:
    """Whether `name` is an importable module or package."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
