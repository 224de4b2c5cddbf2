"""The packaged specs as files: help for editors, the paper's numbers where it gives them."""

import json
from pathlib import Path

import pytest

from ulzoo.registry import find_specs, json_schema, load_spec

ROOT = Path(__file__).parents[2]
SPECS = find_specs()
PAPER = ("imagenet512_small", "imagenet512_medium")


def test_the_five_of_the_zoo_are_there():
    assert set(SPECS) >= {"emoji32_tiny", "emoji64_small", "fashion32_small", *PAPER}


@pytest.mark.parametrize("name", SPECS)
def test_editors_find_the_schema(name):
    assert SPECS[name].read_text("utf-8").splitlines()[0] == "# yaml-language-server: $schema=schema.json"


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_describes_itself_in_one_short_line(name):
    assert 10 < len(load_spec(name).description) <= 100 and "\n" not in load_spec(name).description


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_autoencoder(name):
    """Paper §4: encoder, prior, decoder."""
    spec = load_spec(name)
    assert spec.latent.channels == 32 and spec.latent.downsample == (16, 16) and spec.latent.logsnr == 5.0
    encoder, prior, decoder = spec.encoder, spec.prior, spec.decoder
    assert (encoder.kind, encoder.patch, encoder.channels) == ("resnet", 2, (128, 256, 512, 512))
    assert encoder.blocks == (2, 2, 2, 3)
    assert prior.weighting.kind == "elbo" and prior.schedule.logsnr_max == 5.0
    assert decoder.backbone.kind == "uvit" and decoder.weighting.kind == "sigmoid"
    assert spec.train.latents.prior_warmup_steps == 0  # not in the paper


def test_the_papers_larger_base():
    backbone = load_spec("imagenet512_medium").base.backbone
    assert (backbone.kind, backbone.channels, backbone.blocks) == ("hierarchical_vit", (512, 1024), (6, 16))


def test_the_schema_beside_the_specs_is_current():
    """Otherwise: `make schema`."""
    assert json.loads((ROOT / "specs/schema.json").read_text("utf-8")) == json_schema()
