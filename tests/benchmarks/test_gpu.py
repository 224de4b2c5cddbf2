"""The benchmark for GPUs, on the CPU with a tiny spec."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from ulzoo.registry import load_spec

TINY = Path(__file__).parents[1] / "tiny.yaml"
CPU = torch.device("cpu")


@pytest.mark.parametrize(("stage", "encoded"), [("latents", False), ("base", False), ("base", True)])
def test_the_trainer_runs_on_noise_and_writes_nothing(stage: Any, encoded: bool, tmp_path: Path) -> None:
    row = gpu.measure_steps(load_spec(TINY), stage, CPU, 2, steps=4, compiled=False, encoded=encoded)
    assert row["images_per_second"] > 0 and 0 <= row["data_wait"] <= 1
    assert row["batch"] == 2 and row["peak_bytes"] is None


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_steps(spec, stage, device, batch, **options):  # type: ignore[no-untyped-def]
        if batch > 6:
            raise torch.OutOfMemoryError
        return {"batch": batch}

    monkeypatch.setattr(gpu, "measure_steps", measure_steps)
    spec = load_spec(TINY)
    assert gpu.fitting(spec, "latents", CPU, 32, steps=1, compiled=False) == {"batch": 4}
    assert gpu.largest(spec, "latents", CPU, most=64) == 4
    assert gpu.largest(spec, "latents", CPU, most=2) == 2


def test_specs_that_share_their_first_stage_are_recognised() -> None:
    medium, small, other = (
        load_spec(name) for name in ("imagenet512_medium", "imagenet512_small", "imagenet256_small")
    )
    assert gpu.first_stage(medium) == gpu.first_stage(small) != gpu.first_stage(other)


def test_claims_compare_with_the_bars() -> None:
    def row(compiled: bool, speed: float, of_peak: float) -> dict[str, Any]:
        both = {"spec": "imagenet512_medium", "stage": "base", "compiled": compiled}
        return {**both, "images_per_second": speed, "of_peak": of_peak, "forward_flops": 100}

    dit = [
        {**row(compiled, speed, 0.2), "of": "diffusers DiT", "forward_flops": 110}
        for compiled, speed in ((False, 10), (True, 20))
    ]
    ours = [row(False, 15, 0.3), row(True, 33, 0.6)]
    memory = [{"spec": "imagenet512_medium", "peak_bytes": peak, "estimated_bytes": 100} for peak in (None, 80)]
    claims = gpu.claims({"speed": ours, "dit": [ours[0], dit[0], ours[1], dit[1]], "memory": memory})
    values = {claim["what"].split(": ")[1]: (claim["value"], claim["bar"], claim["met"]) for claim in claims}
    assert values["memory and its estimate"] == (0.8, 0.9, False)
    assert values["share of the peak"] == (0.6, 0.5, True)
    assert values["compiled over eager"] == (pytest.approx(2.2), 1.8, True)
    assert values["of the speed of a DiT of equal FLOPs, as documented"] == (pytest.approx(3.0), 1.3, True)
    assert values["of the speed of a DiT of equal FLOPs, compiled"] == (pytest.approx(1.5), 1.3, True)
