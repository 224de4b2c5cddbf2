"""A spec of any size is checked quickly and without memory for it."""

import pytest
import torch
from torch import nn

from ulzoo.nn.bounds import MAX_MODULES, bounded
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.loading import find_specs
from ulzoo.registry.zoo.catalogue import load_spec

LARGE = ["encoder.depth=1000000000", "prior.backbone.depth=9223372036854775807", "encoder.width=9223372036854775800"]


@pytest.mark.parametrize("override", LARGE)
def test_a_model_beyond_the_bounds(tiny, override):
    with pytest.raises(ValueError, match=r"more than 10,000 modules|the networks cannot be built: ") as error:
        compile_model(tiny(override), "meta")
    assert "\n" not in str(error.value)


def test_more_memory_than_there_is(tiny):
    with pytest.raises(ValueError, match="the networks cannot be built: "), bounded():
        torch.empty(2**55)


def test_bugs_are_not_hidden():
    with pytest.raises(KeyError), bounded():
        raise KeyError("a bug")


def test_modules_are_counted_inside_only():
    with bounded():
        pass
    assert len(nn.Sequential(*(nn.Identity() for _ in range(MAX_MODULES + 1)))) > MAX_MODULES


@pytest.mark.parametrize("number", [str(2**63), "-9999999999999999999999", "0x" + "f" * 17])
def test_whole_numbers_have_64_bits(tiny, number):
    with pytest.raises(ValueError, match="cannot be read as int"):
        tiny(f"encoder.width={number}")
    assert tiny(f"train.latents.seed={2**62}").train.latents.seed == 2**62


def test_the_papers_models_are_far_below_the_bounds():
    model = compile_model(load_spec("text2image512_970g"), "meta")
    assert "text2image512_970g" in find_specs() and 5 * sum(1 for _ in model.modules()) < MAX_MODULES
