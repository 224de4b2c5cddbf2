"""The overview of the zoo: recorded costs, and those of a spec that is not the recorded one."""

import json
import subprocess
import sys

import pytest

from ulzoo.registry.zoo import overview as module
from ulzoo.registry.zoo.overview import overview, source_hash


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """The recorded costs of emoji32_tiny, and a function that replaces them."""
    row = json.loads(module.RECORDED.read_text("utf-8"))["emoji32_tiny"]

    def replace(**changed):
        path = tmp_path / "costs.json"
        path.write_text(json.dumps({"emoji32_tiny": {**row, **changed}} if changed else {}))
        monkeypatch.setattr(module, "RECORDED", path)

    return row, replace


def test_costs_are_read_and_metrics_are_those_of_the_release(recorded):
    (entry,) = overview("emoji32_tiny")
    assert entry.parameters == recorded[0]["parameters"] and (entry.resolution, entry.latent) == ((32, 32), (8, 8, 8))
    assert entry.pretrained and entry.figures and entry.description and entry.loss_factors is None
    recorded[1](parameters=7)
    assert overview("emoji32_tiny")[0].parameters == 7


@pytest.mark.parametrize(
    "changed", [{"source": "that of an earlier spec", "parameters": 7}, {}], ids=["old", "missing"]
)
def test_a_spec_that_is_not_recorded_is_measured(recorded, changed):
    expected = overview("emoji32_tiny")
    recorded[1](**changed)
    assert overview("emoji32_tiny") == expected


def test_a_source_is_known_by_its_keys_but_not_by_its_description():
    source = {"description": "a", "base": {"backbone": {"width": 64}}}
    assert source_hash(source) == source_hash({**source, "description": "b"})
    assert source_hash(source) != source_hash({**source, "base": {"backbone": {"width": 65}}})


def test_listing_imports_no_torch():
    code = "import sys; from ulzoo.registry.zoo.overview import overview; overview(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
