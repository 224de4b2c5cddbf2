"""Muon: the same updates as timm's, whichever matrices are orthogonalised together."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim.muon import Muon as TimmMuon
from timm.optim.muon import _is_suitable_for_muon
from torch import nn

from ulzoo.training import matrices
from ulzoo.training import optimizers as muon
from ulzoo.training.matrices import is_matrix
from ulzoo.training.optimizers import Muon, orthogonalize


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(16, 48), nn.Linear(16, 48), nn.Linear(48, 16)])
        self.conv, self.depthwise = nn.Conv2d(8, 16, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.norm, self.thin, self.embedding = nn.LayerNorm(16), nn.Linear(16, 2), nn.Embedding(5, 8)
        self.positions, self.unused = nn.Parameter(torch.randn(1, 6, 16)), nn.Linear(8, 8)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    """Changes of the parameters by random gradients."""
    before = [parameter.detach().clone() for parameter in network.parameters()]
    torch.manual_seed(1)
    for _ in range(steps):
        for name, parameter in network.named_parameters():
            if "unused" not in name:
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return [new.detach() - old for new, old in zip(network.parameters(), before, strict=True)]


def two_groups(network: nn.Module) -> list[dict]:
    parameters = list(network.parameters())
    return [{"params": parameters[::2], "weight_decay": 0.0}, {"params": parameters[1::2], "weight_decay": 0.1}]


@pytest.mark.parametrize("stacked_values", [matrices.MAX_STACKED_VALUES, 1], ids=["together", "one by one"])
def test_updates_are_timms(stacked_values, monkeypatch):
    monkeypatch.setattr(matrices, "MAX_STACKED_VALUES", stacked_values)
    monkeypatch.setattr(muon, "product_dtype", lambda device: torch.bfloat16)  # timm's, also on processors without it
    torch.manual_seed(0)
    network = Net()
    timms_network = copy.deepcopy(network)
    ours = train(network, Muon(two_groups(network), lr=1e-2, betas=(0.8, 0.9)), 4)
    theirs = train(timms_network, TimmMuon(two_groups(timms_network), lr=1e-2, betas=(0.8, 0.9)), 4)
    for (name, _), mine, other in zip(network.named_parameters(), ours, theirs, strict=True):
        assert (mine - other).norm() <= 1e-3 * other.norm(), name
        assert other.any() or "unused" in name


@given(st.lists(st.integers(1, 600), max_size=4))
def test_is_matrix_follows_timm(shape):
    parameter = torch.empty(shape, device="meta")
    assert is_matrix(parameter) == _is_suitable_for_muon(parameter)


@pytest.mark.parametrize("shape", [(3, 24, 8), (2, 8, 24), (2, 8, 4, 3, 3)])
def test_singular_values_are_near_one_and_singular_vectors_are_kept(shape):
    torch.manual_seed(0)
    momenta = torch.randn(shape)
    left, _, right = torch.linalg.svd(momenta.flatten(2), full_matrices=False)
    factors = orthogonalize(momenta.bfloat16(), 1e-7).float().flatten(2)
    values = left.mT @ factors @ right.mT
    diagonal = values.diagonal(dim1=1, dim2=2)
    assert (diagonal - 1).abs().max() < 0.35
    assert (values - torch.diag_embed(diagonal)).abs().max() < 0.05
