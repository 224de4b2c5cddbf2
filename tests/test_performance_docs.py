"""docs/performance.md names existing benchmarks, options and result files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "performance.md").read_text("utf-8")
COMMANDS = sorted(set(re.findall(r"python -m benchmarks (\w+)([^`\n]*)", PAGE)))


@pytest.mark.parametrize(("name", "options"), COMMANDS)
def test_the_commands_exist(name: str, options: str) -> None:
    source = (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")
    shared = (ROOT / "benchmarks" / "measuring.py").read_text("utf-8") if "measuring" in source else ""
    for option in re.findall(r"--[a-z-]+", options.split("   ")[0]):
        assert option == "--json" or f'"{option}"' in source + shared, (name, option)
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(source).body)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((\.\./benchmarks/[^)]+)\)", PAGE))))
def test_the_result_files_exist(path: str) -> None:
    assert (ROOT / "docs" / path).resolve().is_file()


def test_the_page_says_what_was_not_measured() -> None:
    not_measured = PAGE.partition("## Not measured")[2]
    assert "No GPU was available" in not_measured and "benchmarks gpu" in not_measured
