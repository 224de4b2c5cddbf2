"""The zoo at a glance: measured once, and again when a spec or ulzoo changed or what was kept is damaged."""

import pytest

from ulzoo.registry.zoo import overview as module
from ulzoo.registry.zoo.overview import overview


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The names that were measured, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names, measure = [], module._measured
    monkeypatch.setattr(module, "_measured", lambda name: names.append(name) or measure(name))
    return names


def test_a_spec_is_measured_once(measured, monkeypatch, tmp_path):
    first = overview("emoji32_tiny")
    assert overview("emoji32_tiny") == first and measured == ["emoji32_tiny"]
    assert first[0].pretrained and first[0].figures and first[0].resolution == (32, 32)
    (kept,) = (tmp_path / "ulzoo" / "measured").iterdir()
    kept.write_text(kept.read_text()[:-9])
    assert overview("emoji32_tiny") == first and len(measured) == 2
    monkeypatch.setattr(module, "_code", lambda: "another ulzoo")
    assert overview("emoji32_tiny") == first and len(measured) == 3


def test_where_nothing_can_be_kept(measured, monkeypatch, tmp_path):
    (tmp_path / "ulzoo").write_text("a file")
    assert overview("emoji32_tiny")[0].parameters > 1e6 and len(measured) == 1
