"""Compiling video: derived shapes, context frames as inputs of the networks, and errors."""

import pytest
import torch

from ulzoo.registry import SpecError
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.summary import summarize


def test_the_contract_of_a_clip_is_derived(tiny_video):
    model = compile_model(tiny_video())
    contract = model.contract
    assert contract.video and contract.size == (8, 32, 32) and contract.pixels == 8 * 32 * 32
    assert contract.latent_shape == (4, 4, 4, 4) and contract.latent_dimensions == 256
    assert (contract.context_frames, contract.frame_rate) == (3, 8.0)
    assert model.encode(torch.zeros(2, 3, 8, 32, 32)).shape == (2, 4, 4, 4, 4)
    assert [part.dropout.frames for part in (model.decoder, model.base, model.prior)] == [0.5, 0.1, 0.0]
    assert model.sample(2, frames=torch.zeros(2, 3, 3, 32, 32)).shape == (2, 3, 8, 32, 32)


def test_without_frame_conditioning_the_networks_take_no_frames(tiny_video):
    model = compile_model(tiny_video("conditioning.frames=0"))
    assert model.contract.context_frames == 0
    assert model.sample(2).shape == (2, 3, 8, 32, 32)
    continuing = compile_model(tiny_video())
    assert continuing.base.network.embed.in_features == model.base.network.embed.in_features + 5
    assert continuing.prior.network.embed.in_features == model.prior.network.embed.in_features


def test_a_class_and_context_frames_together(tiny_video):
    model = compile_model(tiny_video("base.class_conditional=true"))
    frames = torch.zeros(2, 3, 3, 32, 32)
    assert model.sample(2, labels=[0, 5], frames=frames, guidance=2.0).shape == (2, 3, 8, 32, 32)


def test_the_context_clip_is_encoded_too_in_the_second_stage(tiny_video):
    prediction, generation = summarize(tiny_video()), summarize(tiny_video("conditioning.frames=0"))
    base = 3 * (prediction.flops["base"] - generation.flops["base"])
    expected = generation.training_flops("base") + base + prediction.flops["encoder"]
    assert prediction.training_flops("base") == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("conditioning.frames=8", "conditioning.frames=8: 8 of the clip's 8 frames leave none to generate"),
        ("conditioning.frames=-1", "conditioning.frames=-1: must be at least 0, got -1"),
        ("latent.downsample=[8, 8]", r"latent.downsample=\[8, 8\]: latent.downsample \[8, 8\] has 2 dimensions"),
        ("latent.downsample=[3, 8, 8]", "does not divide the grid"),
        ("encoder.convolution=half", "expected 'full' or 'factorised', got 'half'"),
        ("decoder.backbone.patch=[2, 8]", r"patch \[2, 8\] has 2 dimensions, the grid \[8, 32, 32\] has 3"),
        ("decoder.backbone.patch=wide", "expected an integer or a list, got 'wide'"),
    ],
)
def test_errors_name_the_key(tiny_video, override, message):
    with pytest.raises(SpecError, match=message):
        compile_model(tiny_video(override), "meta")


def test_images_have_no_context_frames(tiny):
    with pytest.raises(SpecError, match=r"conditioning\.frames=2: the data is of images"):
        compile_model(tiny("conditioning.frames=2"), "meta")
