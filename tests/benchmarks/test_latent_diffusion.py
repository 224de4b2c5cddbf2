"""Latent diffusion from diffusers' parts: what it costs is what Unified Latents cost, and both networks learn."""

import pytest
import torch

from benchmarks.latent_diffusion import SPEC, Autoencoder, Budget, DiT, budgets, sample, train_dit
from ulzoo.data import in_order
from ulzoo.registry import load_spec
from ulzoo.registry.compile import open_source


def test_steps_cost_what_the_stage_cost() -> None:
    budget = Budget(flops=3 * 100 * 8 * 50, batch=8, forward_flops=100)
    assert budget.steps(100) == 50 and budget.steps(200) == 25


@pytest.mark.slow
def test_networks_are_about_as_large_as_those_of_unified_latents() -> None:
    costs = budgets()
    assert Autoencoder(costs["latents"].forward_flops).flops == pytest.approx(costs["latents"].forward_flops, rel=0.2)
    assert DiT(costs["base"].forward_flops, classes=9).flops == pytest.approx(costs["base"].forward_flops, rel=0.2)


@pytest.mark.slow
def test_loss_of_the_autoencoder() -> None:
    """With a weight of 0 it is half the squared error of a decoded sample; the KL adds to it."""
    torch.manual_seed(0)
    autoencoder, x = Autoencoder(1e7).eval(), torch.rand(2, 3, 32, 32)
    losses = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(1)
        losses[weight] = autoencoder.loss(x, weight).item()
    kl = autoencoder.posterior(x).kl().mean().item()
    assert kl > 0 and losses[0.5] - losses[0.0] == pytest.approx(kl / 2, rel=1e-4)


@pytest.mark.slow
def test_latents_are_scaled_to_unit_variance_and_samples_are_images() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(1e7).eval().requires_grad_(False)
    source = open_source(load_spec(SPEC, ["data.classes=[8]"]), "train")
    x = next(in_order(source, len(source)))["x"]
    budget = Budget(flops=3e7 * 4 * 2, batch=4, forward_flops=1e7)
    dit, scale = train_dit(source, autoencoder, budget, seed=0)
    torch.manual_seed(0)
    assert (scale * autoencoder.posterior(x).sample()).std().item() == pytest.approx(1, rel=1e-4)
    images = sample(dit, autoencoder, scale, torch.tensor([0, 1]))
    assert images.shape == (2, 3, 32, 32) and images.abs().max() <= 1 and images.std() > 0
