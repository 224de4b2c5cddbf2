"""The overview of the zoo: costs are measured once, and again if ulzoo changed or the cache is damaged."""

import pytest

from ulzoo.registry.zoo import overview as module
from ulzoo.registry.zoo.overview import overview


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The names of the specs whose costs were measured, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names, measure = [], module._measure_costs
    monkeypatch.setattr(module, "_measure_costs", lambda name: names.append(name) or measure(name))
    return names


def test_a_spec_is_measured_once(measured, monkeypatch, tmp_path):
    first = overview("emoji32_tiny")
    assert overview("emoji32_tiny") == first and measured == ["emoji32_tiny"]
    assert first[0].pretrained and first[0].figures and first[0].resolution == (32, 32)
    (cached,) = (tmp_path / "ulzoo" / "measured").iterdir()
    cached.write_text(cached.read_text()[:-9])
    assert overview("emoji32_tiny") == first and len(measured) == 2
    monkeypatch.setattr(module, "_code_version", lambda: "another ulzoo")
    assert overview("emoji32_tiny") == first and len(measured) == 3


def test_without_a_writable_cache(measured, monkeypatch, tmp_path):
    (tmp_path / "ulzoo").write_text("a file")
    assert overview("emoji32_tiny")[0].parameters > 1e6 and len(measured) == 1
