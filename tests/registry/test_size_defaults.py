"""Defaults that the sizes of a spec decide."""

from pathlib import Path

import pytest

from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import changed_on_resume

TINY = """
name: patches
data: {kind: emoji3d, resolution: 64}
latent: {channels: 4, downsample: [8, 8]}
encoder: {kind: vit, width: 32, depth: 1, heads: 2}
prior: {backbone: {kind: vit, width: 32, depth: 1, heads: 2}}
decoder: {backbone: {kind: vit, patch: 8, width: 96, depth: 1, heads: 2}}
base: {backbone: {kind: vit, width: 32, depth: 1, heads: 2}}
train: {latents: {steps: 2, batch_size: 4, lr: 1e-3}, base: {steps: 2, batch_size: 4, lr: 1e-3}}
"""


@pytest.fixture
def patches(tmp_path):
    path = Path(tmp_path / "patches.yaml")
    path.write_text(TINY)
    return lambda *overrides: load_spec(path, overrides)


@pytest.mark.parametrize(
    ("overrides", "carries"),
    [
        ((), True),  # 3 · 8² = 192 values, 96 channels
        (("decoder.backbone.width=184",), True),
        (("decoder.backbone.width=192",), False),
        (("decoder.backbone.patch=4",), False),
        (("decoder.backbone.carry=false",), False),
        (("decoder.backbone.width=192", "decoder.backbone.carry=true"), True),
    ],
    ids=str,
)
def test_a_decoder_carries_its_input_if_a_patch_is_wider_than_its_tokens(overrides, carries, patches):
    spec = patches(*overrides)
    assert spec.decoder.backbone.carry is carries and spec.prior.backbone.carry is False
    assert (compile_model(spec, "meta").decoder.network.carry is not None) is carries
    assert spec.hash == patches(*overrides, f"decoder.backbone.carry={str(carries).lower()}").hash
    decided = {"decoder.backbone.carry": "true, since a patch holds 192 values, more than width "}
    assert spec.decided.keys() == (decided if carries and not any("carry" in text for text in overrides) else {}).keys()


def test_a_resolved_spec_is_not_decided_again(patches):
    spec = patches()
    assert spec_from_dict(spec.to_dict()) == spec
    earlier = spec.to_dict()
    del earlier["decoder"]["backbone"]["carry"]  # an export of a version that did not have the key
    assert spec_from_dict(earlier).decoder.backbone.carry is False
    assert changed_on_resume(spec_from_dict(earlier), spec) == ["decoder.backbone.carry: false -> true"]


def test_a_decoder_that_regresses_does_not_carry_its_input(patches):
    spec = patches("decoder.kind=mse", "decoder.weight=10")
    assert spec.decoder.backbone.carry is False and not spec.decided


def test_a_final_decoder_does(patches):
    final = "{backbone: {kind: vit, patch: 8, width: 64, depth: 1, heads: 2}}"
    spec = patches(f"final_decoder={final}", "train.decoder={steps: 2, batch_size: 4, lr: 1e-3}")
    assert spec.final_decoder.backbone.carry is True and len(spec.decided) == 2


def test_clips_have_patches_over_frames(tiny_video):
    spec = tiny_video()
    backbone = spec.to_dict()["decoder"]["backbone"]
    assert backbone["carry"] is True and not spec.decided  # the file says so
