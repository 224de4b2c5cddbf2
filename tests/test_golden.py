"""Values that refactoring must not change, recorded with `python -m benchmarks golden --optimizer adamw --record FILE`.

Spec hashes are exact. Losses and samples are held within 1e-4, since processors differ in the last bits; AdamW, since
Muon multiplies in bf16, where they differ by more. `python -m benchmarks golden --base REVISION` compares two revisions
on one machine to the last bit, with the specs' own optimizer.
"""

import json
import sys
from pathlib import Path

import pytest

from ulzoo.registry import load_spec
from ulzoo.registry.runs import train as run_module
from ulzoo.registry.runs.train import RunOptions, train

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from benchmarks import golden  # noqa: E402

RECORDED = json.loads((Path(__file__).parent / "golden.json").read_text("utf-8"))


def test_hashes_of_every_packaged_spec_and_point() -> None:
    assert golden.spec_hashes() == RECORDED["hashes"]


def train_and_hardly_evaluate(name: str, run: Path, optimizer: str | None = None) -> None:
    train(load_spec(name, golden.overrides(optimizer)), run, RunOptions(device="cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.SPECS)
def test_losses_and_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "EVALUATED_IMAGES", 4)
    monkeypatch.setattr(run_module, "EVALUATED_CLIPS", 2)
    monkeypatch.setattr(run_module, "draw_stage", lambda *arguments: [])  # encoding pictures takes a third of the time
    monkeypatch.setattr(golden, "train", train_and_hardly_evaluate)
    recorded, values = RECORDED[name], golden.record_training(name, "adamw")
    for row, expected in zip(values["log"], recorded["log"], strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert values["samples_mean"] == pytest.approx(recorded["samples_mean"], abs=1e-4)
    assert values["samples_std"] == pytest.approx(recorded["samples_std"], abs=1e-4)
    assert values["spec_yaml_sha256"] == recorded["spec_yaml_sha256"]
