"""docs/security.md names existing tests for every threat."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
TESTS = sorted(set(re.findall(r"`((?:\w+/)*test_\w+:test_\w+)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| threat")]


def test_every_threat_has_a_protection_and_a_test() -> None:
    assert len(ROWS) >= 30
    for row in ROWS:
        threat, protection, tests = (cell.strip() for cell in row.strip("|").split("|"))
        assert threat and protection and re.search(r"`(?:\w+/)*test_\w+:test_\w+`", tests), row


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_exist(name: str) -> None:
    file, _, function = name.partition(":")
    assert re.search(rf"^def {function}\(", (ROOT / "tests" / f"{file}.py").read_text("utf-8"), re.MULTILINE)


def test_the_test_column_contains_only_tests() -> None:
    for row in ROWS:
        for quoted in re.findall(r"`([^`]+)`", row.split("|")[3]):
            assert quoted in TESTS, quoted


def test_every_kind_of_file_has_a_section() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    for kind in ("specs", "Checkpoint", "Hub", "Shards", "Images", "Videos", "latents", "sweep"):
        assert any(kind in heading for heading in headings), kind
