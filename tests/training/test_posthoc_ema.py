"""Post-hoc EMA: power functions in closed form, synthesis of tracked and other lengths, snapshots of a resumed run."""

import math

import numpy as np
import pytest
import torch

from ulzoo.registry.runs.run_directory import remove_run
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.posthoc_ema import (
    PowerAverages,
    PowerProfile,
    coefficients,
    power_exponent,
    profile_error,
    relative_length,
)

LENGTHS = (0.05, 0.10)
STEPS = 160


def track(trajectory: torch.Tensor, lengths=LENGTHS, every: int = 20) -> tuple[list[PowerProfile], torch.Tensor]:
    """Profiles and values of the snapshots of a trajectory of weights (steps, n)."""
    weights = {"w": torch.zeros_like(trajectory[0])}
    averages = PowerAverages(weights, lengths)
    profiles, values = [], []
    for step, value in enumerate(trajectory, start=1):
        averages.update({"w": value}, step)
        if step % every == 0:
            profiles += [PowerProfile(step, length) for length in lengths]
            values += [tensor.clone() for tensor in averages.state().values()]
    return profiles, torch.stack(values)


def synthesize(profiles: list[PowerProfile], values: torch.Tensor, step: int, length: float) -> torch.Tensor:
    return torch.tensor(coefficients(profiles, PowerProfile(step, length)), dtype=values.dtype) @ values


@pytest.mark.parametrize("length", [0.01, 0.05, 0.10, 0.15, 0.25])
def test_exponents_are_those_of_the_paper(length):
    """EDM2 takes the root of a polynomial, which gives γ = 16.97 and 6.94 for 0.05 and 0.10."""
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    assert power_exponent(length) == pytest.approx(roots.real.max(), rel=1e-9)
    assert [round(power_exponent(x), 2) for x in LENGTHS] == [16.97, 6.94]
    assert relative_length(power_exponent(length)) == pytest.approx(length, rel=1e-12)


def test_the_profile_has_the_length_that_it_is_called_by():
    tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    gamma = power_exponent(0.1)
    density = (gamma + 1) * tau**gamma / len(tau)
    mean = (density * tau).sum()
    assert density.sum() == pytest.approx(1, abs=1e-9)
    assert (density * (tau - mean) ** 2).sum().sqrt() == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("length", [0.05, 0.10, 0.25])
def test_updates_give_the_closed_form(length):
    """After t updates the weights of step τ have the share (τ^(γ+1) - (τ-1)^(γ+1)) / t^(γ+1), an integral of p."""
    steps, power = 30, power_exponent(length) + 1
    _, values = track(torch.eye(steps, dtype=torch.float64), (length,), every=steps)
    tau = torch.arange(1, steps + 1, dtype=torch.float64)
    torch.testing.assert_close(values[0], (tau**power - (tau - 1) ** power) / steps**power, atol=1e-14, rtol=1e-9)


@pytest.mark.parametrize(("a", "b"), [((40, 0.05), (100, 0.1)), ((100, 0.1), (40, 0.05)), ((70, 0.2), (70, 0.05))])
def test_inner_products_are_integrals(a, b):
    tau = (torch.arange(400_000, dtype=torch.float64) + 0.5) * 100 / 400_000
    densities = []
    for step, length in (a, b):
        gamma = power_exponent(length)
        densities.append((gamma + 1) / step * (tau / step) ** gamma * (tau <= step))
    integral = (densities[0] * densities[1]).sum() * 100 / len(tau)
    assert PowerProfile(*a).inner_product(PowerProfile(*b)) == pytest.approx(float(integral), rel=1e-4)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_tracked_length_is_reproduced(length):
    """A random walk; the coefficients pick the snapshot of the same length and step."""
    trajectory = torch.randn(STEPS, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    profiles, values = track(trajectory)
    for step in (STEPS, 100):
        expected = values[profiles.index(PowerProfile(step, length))]
        torch.testing.assert_close(synthesize(profiles, values, step, length), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [0.07, 0.15, 0.2])
def test_another_length_is_close_to_its_average(length):
    """Relative to how far the averages of lengths 0.05 and 0.1 are apart."""
    trajectory = torch.randn(STEPS, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).cumsum(0)
    profiles, values = track(trajectory, every=5)
    _, direct = track(trajectory, (length,), every=STEPS)
    error = (synthesize(profiles, values, STEPS, length) - direct[0]).norm()
    assert error < 0.01 * (values[-1] - values[-2]).norm()


@pytest.mark.parametrize(("count", "length"), [(1, 0.2), (2, 0.01), (8, 0.15), (64, 0.25)])
def test_constant_weights_are_exact(count, length):
    profiles = [PowerProfile(10 * step, tracked) for step in range(1, count + 1) for tracked in LENGTHS]
    assert math.fsum(coefficients(profiles, PowerProfile(10 * count, length))) == pytest.approx(1, abs=1e-9)


def test_the_error_of_a_profile_is_an_integral():
    profiles, target = [PowerProfile(step, 0.1) for step in (30, 60, 100)], PowerProfile(100, 0.2)
    factors, tau = coefficients(profiles, target), (np.arange(400_000) + 0.5) * 100 / 400_000
    densities = []
    for profile in (*profiles, target):
        gamma, step = profile.exponent, profile.step
        densities.append((gamma + 1) / step * (tau / step) ** gamma * (tau <= step))
    error = np.linalg.norm(np.array(factors) @ densities[:-1] - densities[-1]) / np.linalg.norm(densities[-1])
    assert profile_error(profiles, factors, target) == pytest.approx(error, rel=1e-4)
    assert profile_error(profiles, [0, 0, 1], profiles[-1]) == pytest.approx(0, abs=1e-7)


OVERRIDES = (
    "train.latents.posthoc_ema.snapshot_every=4",
    "train.latents.posthoc_ema.lengths=[0.05,0.2]",
    "train.latents.steps=12",
)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_snapshots(tiny, train_and_kill, assert_same_run, tmp_path):
    """Killed between a snapshot and the next checkpoint, and while a snapshot is written."""
    spec, folder, reference = tiny(*OVERRIDES), tmp_path / "run", tmp_path / "reference"
    train(spec, reference, RunOptions(stage="latents"))
    assert train_and_kill(spec, folder, ["at", "latents", 9], stage="latents")
    assert train_and_kill(spec, folder, ["writing", 3, "half"], resume=True, stage="latents")
    train(spec, folder, RunOptions(resume=True, stage="latents"))
    assert_same_run(folder, reference)
    snapshots, expected = (CheckpointManager(run / "snapshots").list_checkpoints() for run in (folder, reference))
    assert [(path.stage, path.step) for path in snapshots] == [("latents", step) for step in (4, 8, 12)]
    for ours, theirs in zip(snapshots, expected, strict=True):
        state, tensors = (Checkpoint.open(path.folder).read("") for path in (ours, theirs))
        assert state.keys() == tensors.keys()
        assert tensors and all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    remove_run(folder)
    assert list(folder.iterdir()) == []


def test_snapshots_of_an_attempt_without_a_checkpoint_are_deleted(tiny, train_and_kill, tmp_path):
    """It may have had other settings, and its snapshots would enter the average."""
    spec = tiny(*OVERRIDES, "train.latents.checkpoint_every=10")
    assert train_and_kill(spec, tmp_path, ["at", "latents", 9], stage="latents")
    manager = CheckpointManager(tmp_path / "snapshots")
    assert manager.list_checkpoints()[0].step == 4
    other = tiny(*OVERRIDES, "train.latents.posthoc_ema.snapshot_every=10", "train.latents.steps=2")
    (tmp_path / "spec.yaml").write_text(other.to_yaml())  # as if the first attempt had been of a second stage
    train(other, tmp_path, RunOptions(stage="latents"))
    assert [path.step for path in manager.list_checkpoints()] == [2]


def test_weights_are_trained_as_without(tiny, tmp_path):
    states = []
    for i, overrides in enumerate([(), OVERRIDES]):
        train(tiny(*overrides, "train.latents.steps=2"), tmp_path / str(i), RunOptions(stage="latents"))
        checkpoint = CheckpointManager(tmp_path / str(i) / "checkpoints").latest("latents")
        states.append(checkpoint.read(""))
    plain, tracked = states
    assert {name.split(".")[0] for name in tracked.keys() - plain.keys()} == {"posthoc_ema"}
    assert all(torch.equal(tracked[name], tensor) for name, tensor in plain.items())
