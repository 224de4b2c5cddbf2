"""The project's vocabulary: identifiers and phrases that docs/architecture.md replaces by the field's own terms."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ulzoo", "registry", "cli", "benchmarks", "tests")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path != Path(__file__))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

VARIABLES = {"found", "some", "made", "there", "known", "told", "gone", "hold", "called", "whole"}
"""Participles and adverbs that say nothing about the value: no variable, attribute or parameter has such a name."""

IDENTIFIERS = re.compile(
    r"\b(check_told|held_clip|with_and_without|nonsense|quicken|Reach|Carry|shrink|enlarge|agreed|ALONE|"
    r"Processes|Saver|Checkpoints|LeftOut|Watch|_Told|_Teller|_mourn|bury|_Wish|Asked|Alive|Moment|screening|gallery)\b"
)
"""Names that were replaced; see the glossary in docs/architecture.md."""

PROSE = re.compile(
    r"\b(told|hears?|heard|mourns?|bury|buried|forgets?|corridors?|houses?|rooms?|films?|nonsense|"
    r"somebody else's|anybody's|of one's own|nor how its do|by hand|wears off|speaks? of|said of)\b",
    re.IGNORECASE,
)
"""Private words, personification and inverted phrases that docstrings, comments and pages do without."""


def assigned_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every variable, attribute, parameter, function and class that a file binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of every comment and of every string that stands alone, such as a docstring."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_a_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    bound = [f"{line}: {name}" for line, name in assigned_names(ast.parse(text)) if name in VARIABLES]
    replaced = [f"{text.count(chr(10), 0, match.start()) + 1}: {match[0]}" for match in IDENTIFIERS.finditer(text)]
    assert not bound + replaced


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_of_a_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [f"{line}: {match[0]}" for line, comment in comments(text) for match in PROSE.finditer(comment)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_of_a_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [f"{text.count(chr(10), 0, m.start()) + 1}: {m[0]}" for m in PROSE.finditer(text)]
