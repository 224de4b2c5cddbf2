"""Learning rate, weight decay, moving average, and saving and loading of optimizer states."""

import copy
import json
import math

import pytest
import timm.optim
import torch
from torch import nn

from ulzoo.training.config import StageConfig
from ulzoo.training.optimizers import (
    build_ema,
    build_optimizer,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)


def config(**keys) -> StageConfig:
    return StageConfig(**{"steps": 100, "batch_size": 4, "lr": 0.5, **keys})


def rates(**keys) -> list[float]:
    stage = config(**keys)
    return [learning_rate(step, stage) for step in range(stage.steps)]


# -------------------------------------------------------------------------------------------------------- learning rate


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_warm_up_reaches_the_peak_in_its_last_step_and_stays_there_for_one(decay):
    schedule = rates(decay=decay, warmup_steps=10)
    assert schedule[:10] == pytest.approx([0.05 * n for n in range(1, 11)])
    assert schedule[9] == schedule[10] == max(schedule) == 0.5


def test_no_warm_up_starts_at_the_peak():
    assert rates()[0] == 0.5


def test_decays_by_their_formulas():
    cosine, linear = (rates(decay=decay, warmup_steps=20) for decay in ("cosine", "linear"))
    assert cosine[60] == pytest.approx(0.25) and linear[60] == pytest.approx(0.25)
    assert cosine[40] == pytest.approx(0.25 * (1 + math.cos(math.pi / 4)))
    assert linear[40] == pytest.approx(0.375)
    assert linear[99] == pytest.approx(0.5 / 80)  # above 0 in the last step, which would otherwise be wasted
    assert 0 < cosine[99] < linear[99]
    assert set(rates(decay="constant")) == {0.5}


@pytest.mark.parametrize("warmup", [1, 2, 3, 100])
@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_a_run_as_short_as_its_warm_up(decay, warmup, capfd, caplog):
    schedule = rates(decay=decay, steps=2, warmup_steps=warmup)
    assert schedule[0] == 0.5 / warmup
    assert all(0 < rate <= 0.5 for rate in schedule)
    assert not caplog.records and capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------------------------------------- weight decay


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(3, 3), nn.Conv2d(3, 3, 2)
        self.norm, self.embedding = nn.LayerNorm(3), nn.Embedding(5, 3)
        self.positions, self.temperature = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(2, 1, 1))


def test_only_kernels_decay():
    networks = nn.ModuleDict({"a": Net()})
    optimizer = build_optimizer(networks, config(weight_decay=0.1, optimizer="sgd"))
    for parameter in networks.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = copy.deepcopy(networks["a"])
    optimizer.step()
    changed = {
        name
        for (name, new), old in zip(networks["a"].named_parameters(), before.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert changed == {"linear.weight", "conv.weight"}


def test_every_parameter_is_optimized_once():
    networks = nn.ModuleDict({"a": Net(), "b": Net()})
    optimizer = build_optimizer(networks, config())
    parameters = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(parameters) == sorted(map(id, networks.parameters()))


# ------------------------------------------------------------------------------------------------------- moving average


def test_average_follows_timms_rule_with_warm_up():
    network = nn.Linear(1, 1, bias=False)
    ema, expected = build_ema(network, config(ema=0.8)), None
    for step in range(30):
        value = math.sin(step)
        nn.init.constant_(network.weight, value)
        ema.update(network, step)
        decay = 0.0 if step <= 1 else min(1 - step ** (-2 / 3), 0.8)
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert ema.module.weight.item() == pytest.approx(expected, abs=1e-6)
    assert min(1 - 29 ** (-2 / 3), 0.8) == 0.8  # the limit was reached


# ---------------------------------------------------------------------------------------------------------- whole state


def step(network: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
    torch.manual_seed(n)
    network(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def buildable() -> list[str]:
    """The names of all optimizers that can be built on this machine."""
    names = []
    for name in timm.optim.list_optimizers():
        try:
            build_optimizer(nn.Linear(2, 2), config(optimizer=name))
        except ValueError:
            continue
        names.append(name)
    return names


BUILDABLE = buildable()


def test_most_optimizers_can_be_built():
    assert len(BUILDABLE) > 60
    assert {"adamw", "muon", "lion", "lamb", "adan"} <= set(BUILDABLE)


@pytest.fixture
def uncompiled():
    """kron would otherwise compile for half a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", BUILDABLE)
def test_a_restored_state_continues_to_the_same_bits(name):
    """Three steps, saving and loading through tensors and JSON, and three more steps equal six."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = build_optimizer(network, config(optimizer=name, lr=1e-3, weight_decay=0.01))
    for n in range(3):
        step(network, optimizer, n)
    tensors, packed = optimizer_state(optimizer)
    other = copy.deepcopy(network)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    packed = json.loads(json.dumps(packed, allow_nan=False))
    resumed = build_optimizer(other, config(optimizer=name, lr=1e-3, weight_decay=0.01))
    load_optimizer_state(resumed, tensors, packed)
    for n in range(3, 6):
        step(network, optimizer, n)
        step(other, resumed, n)
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    (old, old_rest), (new, new_rest) = optimizer_state(optimizer), optimizer_state(resumed)
    assert old.keys() == new.keys() and old_rest == new_rest
    assert all(old[key].dtype == new[key].dtype and torch.equal(old[key], new[key]) for key in old)


def test_betas_are_passed_to_optimizers_with_two():
    betas = {"betas": (0.7, 0.8)}
    assert build_optimizer(nn.Linear(2, 2), config(**betas)).defaults["betas"] == (0.7, 0.8)
    assert len(build_optimizer(nn.Linear(2, 2), config(optimizer="adan", **betas)).defaults["betas"]) == 3


def test_adamw_is_fused():
    assert build_optimizer(nn.Linear(2, 2), config()).defaults["fused"]
