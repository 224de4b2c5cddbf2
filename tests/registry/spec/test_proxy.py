"""The narrower model of µP: a spec like the model's, and what cannot be one."""

import pytest
import torch

from ulzoo.registry import SpecError
from ulzoo.registry.compile import compile_model, compile_proxy
from ulzoo.registry.spec.proxy import proxy_spec


def mup(stage: str, proxy: str) -> str:
    return f"train.{stage}.parametrisation={{kind: mup, proxy: {proxy}}}"


def test_it_differs_in_the_given_keys_alone(tiny):
    spec = tiny(mup("latents", "{encoder: {width: 16}, decoder: {width: 8, heads: 1}}"))
    proxy = proxy_spec(spec, "latents")
    assert (proxy.encoder.width, proxy.decoder.backbone.width, proxy.decoder.backbone.heads) == (16, 8, 1)
    same = tiny("encoder.width=16", "decoder.backbone.width=8", "decoder.backbone.heads=1")
    assert proxy.to_dict() == same.to_dict()
    assert proxy_spec(spec, "base") is None is compile_proxy(spec, "base")


def test_compiled_weights_are_scaled_once(tiny):
    fresh, scaled = compile_model(tiny()), compile_model(tiny(mup("latents", "{encoder: {width: 8}}")))
    for name, tensor in fresh.state_dict().items():
        changed = name.startswith("encoder.") and not torch.equal(scaled.state_dict()[name], tensor)
        assert not changed or torch.equal(scaled.state_dict()[name], tensor / 2), name
        assert changed == (name in ("encoder.out.weight", "encoder.transformer.blocks.0.attention.temperature")), name


@pytest.mark.parametrize(
    ("stage", "proxy", "words"),
    [
        ("base", "{encoder: {width: 16}}", "this stage trains no encoder, only base"),
        ("latents", "{base: {width: 16}}", "this stage trains no base, only encoder, prior, decoder"),
        ("base", "{base: {widht: 16}}", "base.backbone.widht: unknown key"),
        ("base", "{base: {width: 16, heads: 3}}", "base.backbone.heads: heads 3 does not divide the width 16"),
        ("base", "{base: {depth: 2}}", "differs in more than widths"),
        ("base", "{}", "expected at least 1 values"),
    ],
)
def test_what_cannot_be_a_proxy(stage, proxy, words, tiny):
    with pytest.raises(SpecError) as error:
        compile_model(tiny(mup(stage, proxy)), "meta")
    assert words in str(error.value) and f"train.{stage}.parametrisation" in str(error.value)
    assert "\n" not in str(error.value)
