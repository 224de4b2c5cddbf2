"""Networks are measured with every operation run once for inputs of the same layout, and nothing else changes."""

from contextlib import nullcontext

import pytest
import torch

from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost import networks
from ulzoo.registry.cost.networks import RepeatedOperations, measure_networks


@pytest.mark.parametrize("name", ["emoji64_tiny", "atari_video64_tiny", "text2image512_100g"])
def test_flops_and_shapes_are_those_of_all_operations(name, monkeypatch):
    spec = load_spec(name)
    model = compile_model(spec, "meta")
    measured = measure_networks(spec, model)
    monkeypatch.setattr(networks, "RepeatedOperations", nullcontext)
    assert measured == measure_networks(spec, model)


def test_an_operation_is_run_once_per_layout():
    x, y = torch.zeros(2, 3, device="meta"), torch.zeros(3, 2, device="meta")
    with RepeatedOperations() as mode:
        results = [x * 2, y.t() * 2, x * 2, x.double() * 2, x * 3, (x + 1) * 2]
    assert [tuple(result.shape) for result in results] == [(2, 3)] * 6
    assert results[3].dtype == torch.float64 and results[1].stride() == (1, 2)
    assert len(mode.results) == 6  # four products, the conversion and the sum
