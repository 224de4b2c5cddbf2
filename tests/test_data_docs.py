"""docs/data.md lists all data sources, and its examples use existing keys."""

import inspect
import re
from pathlib import Path

import yaml

from ulzoo.registry.spec.components import DATASETS

TEXT = (Path(__file__).parents[1] / "docs" / "data.md").read_text()


def test_the_table_lists_every_kind() -> None:
    table = TEXT.partition("| `")[2].partition("\n\n")[0]  # the first of the page
    assert sorted(re.findall(r"^\| `(\w+)` \|", f"| `{table}", re.M)) == sorted(DATASETS.entries)


def test_the_examples_use_existing_keys() -> None:
    examples = [yaml.safe_load(line)["data"] for line in TEXT.splitlines() if line.startswith("data: {")]
    assert len(examples) >= 4
    for keys in examples:
        kind = keys.pop("kind")
        source = DATASETS.get(kind)
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(source).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        assert set(keys) <= set(defaults), kind
        contract = source.describe(**{**defaults, **keys})  # type: ignore[attr-defined]
        assert contract.resolution == keys["resolution"]
