"""`python -m benchmarks release`: the files that it writes are a model with its metrics, and its manifest."""

from pathlib import Path

import pytest

from benchmarks.release import release
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.export import load_export, save_export
from ulzoo.registry.zoo.release import read_manifest

TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.mark.slow
def test_a_release_has_rounded_weights_and_their_metrics(tmp_path):
    spec = load_spec(TINY, ["data={kind: emoji3d, resolution: 32, classes: [5]}"])
    save_export(tmp_path / "model.safetensors", compile_model(spec), spec, {})
    texts = {"command": "ulzoo train tiny.yaml", "trained": "not at all", "data": "eight emoji", "notes": "noise"}
    release(tmp_path / "model.safetensors", tmp_path / "zoo", texts)
    manifest = read_manifest(tmp_path / "zoo/releases/tiny.yaml", "tiny.yaml")
    weights = tmp_path / "zoo/weights/tiny.safetensors"
    manifest.verify("tiny.safetensors", weights, "")
    loaded = load_export(weights)
    assert loaded.dtype == "float16"
    assert loaded.results["figures"] == pytest.approx(manifest.figures, rel=1e-4)
    assert loaded.results["protocol"] == manifest.protocol and manifest.protocol["images"] == 8
    assert loaded.model.codec.to_dict() == manifest.codec
    assert manifest.command == texts["command"] and manifest.data == texts["data"]
