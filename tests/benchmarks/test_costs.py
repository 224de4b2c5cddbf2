"""Exponents, and the specs whose costs are measured."""

import pytest
import torch

from benchmarks.costs import slope, vit, with_resolution
from ulzoo.registry import load_spec
from ulzoo.registry.compile import data_contract


def test_slope_is_the_power() -> None:
    assert slope([1, 2, 4, 8], [5 * x**1.5 for x in (1, 2, 4, 8)]) == pytest.approx(1.5)


def test_a_spec_at_another_resolution_keeps_its_networks() -> None:
    spec = load_spec("emoji64_small")
    other = with_resolution(spec, 128)
    assert data_contract(other).size == (128, 128)
    assert other.encoder == spec.encoder and other.decoder == spec.decoder


def test_flops_grow_linearly_with_depth() -> None:
    one, two, three = (vit(4, depth, 1, "fp32", torch.device("cpu"))[0] for depth in (1, 2, 3))
    assert three - two == pytest.approx(two - one) and two > one
