"""docs/security.md names, for every threat, tests that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
TESTS = sorted(set(re.findall(r"`((?:\w+/)*test_\w+:test_\w+)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| threat")]


def test_every_threat_has_what_stops_it_and_a_test() -> None:
    assert len(ROWS) >= 30
    for row in ROWS:
        threat, answer, tests = (cell.strip() for cell in row.strip("|").split("|"))
        assert threat and answer and re.search(r"`(?:\w+/)*test_\w+:test_\w+`", tests), row


@pytest.mark.parametrize("name", TESTS)
def test_its_tests_exist(name: str) -> None:
    file, _, function = name.partition(":")
    assert re.search(rf"^def {function}\(", (ROOT / "tests" / f"{file}.py").read_text("utf-8"), re.MULTILINE)


def test_all_that_is_quoted_in_its_tables_is_a_test_or_in_the_code() -> None:
    for row in ROWS:
        for quoted in re.findall(r"`([^`]+)`", row.split("|")[3]):
            assert quoted in TESTS, quoted


def test_it_speaks_of_every_sort_of_file() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    for sort in ("specs", "CheckpointManager", "hub", "Shards", "Images", "Videos", "latents", "sweep"):
        assert any(sort in heading for heading in headings), sort
