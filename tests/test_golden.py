"""Values that refactoring must not change, recorded with `python -m benchmarks golden --record tests/golden.json`.

Spec hashes are exact. Losses and samples are held within 1e-4 (relative), since processors differ in the last bits;
`python -m benchmarks golden --base REVISION` compares two revisions on one machine to the last bit.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from benchmarks import golden  # noqa: E402

RECORDED = json.loads((Path(__file__).parent / "golden.json").read_text("utf-8"))


def test_hashes_of_every_packaged_spec_and_point() -> None:
    assert golden.spec_hashes() == RECORDED["hashes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.SPECS)
def test_losses_samples_and_figures(name: str) -> None:
    recorded, values = RECORDED[name], golden.record_training(name)
    close: dict[str, Any] = {"rel": 1e-4, "abs": 1e-6}
    for row, expected in zip(values["log"], recorded["log"], strict=True):
        assert row == pytest.approx(expected, **close)
    assert values["samples_mean"] == pytest.approx(recorded["samples_mean"], rel=1e-3, abs=1e-4)
    assert values["samples_std"] == pytest.approx(recorded["samples_std"], rel=1e-3, abs=1e-4)
    assert values["spec_yaml_sha256"] == recorded["spec_yaml_sha256"]
    assert values["figures"].keys() == recorded["figures"].keys()
    for figure in ("bits_per_pixel", "psnr_db"):
        assert values["figures"][figure] == pytest.approx(recorded["figures"][figure], rel=1e-3)
