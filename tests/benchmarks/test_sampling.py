"""The benchmarks of sampling: their results for a tiny model, and when the bar is missed."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import sampling, sampling_speed
from ulzoo.registry import create_model

TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.mark.parametrize(("ratios", "status"), [((1.2, 1.04), 0), ((1.2, 1.06), 1), ((1.0, 1.3), 0)])
def test_the_bar_is_met_by_the_better_of_the_two_solvers(
    ratios: tuple[float, float], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {("ddpm", 128): 200.0, ("dpmpp_2m", 16): 200 * ratios[0], ("dpmpp_2m_sde", 16): 200 * ratios[1]}
    rows = [
        {"part": "base", "sampler": sampler, "steps": steps, "seed": seed, "frechet": value + seed}
        for (sampler, steps), value in values.items()
        for seed in (-1, 1)
    ]
    monkeypatch.setattr(sampling, "measure", lambda options, device: rows)
    monkeypatch.setattr("sys.argv", ["sampling", "--device", "cpu", "--out", str(tmp_path)])
    assert sampling.main() == status
    assert (tmp_path / "sampling.png").stat().st_size > 10_000


def test_a_model_samples_as_the_benchmark_says() -> None:
    model = create_model(str(TINY))
    sampling.with_sampler(model, "base", "dpmpp_2m_sde", 3)
    kept = model.contract.sampling["decoder"]
    assert (model.contract.sampling["base"].sampler, model.contract.sampling["base"].steps) == ("dpmpp_2m_sde", 3)
    sampling.with_sampler(model, "decoder", "ddim", 2)
    assert model.contract.sampling["base"].steps == 3 and model.contract.sampling["decoder"] != kept


def test_speed_of_every_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--models", str(TINY), "--batch", "2", "--steps", "2", "--rounds", "1", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["sampling_speed", *arguments, "--out", str(tmp_path)])
    threads = torch.get_num_threads()
    assert sampling_speed.main() == 0
    assert torch.get_num_threads() == threads
    rows = json.loads((tmp_path / "sampling_speed.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {"base", "decoder"}
    assert all(row["steps_per_second"]["median"] > 0 for row in rows if "side" in row)
