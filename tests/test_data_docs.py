"""docs/data.md speaks of the sources that there are, with keys that they have."""

import inspect
import re
from pathlib import Path

import yaml

from ulzoo.registry.spec.components import DATASETS

TEXT = (Path(__file__).parents[1] / "docs" / "data.md").read_text()


def test_every_kind_is_in_the_table() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", TEXT, re.M)) == sorted(DATASETS.entries)


def test_examples_have_keys_that_exist() -> None:
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
