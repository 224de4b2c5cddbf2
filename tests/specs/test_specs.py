"""The packaged specs: schema for editors, descriptions, the paper's numbers."""

import json
import math
from pathlib import Path

import pytest

from ulzoo.model.contract import STAGES
from ulzoo.registry import find_specs, json_schema, load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.runs.initialize import changed_keys

ROOT = Path(__file__).parents[2]
SPECS = find_specs()
PAPER = ("imagenet512_small", "imagenet512_medium")
KINETICS = ("kinetics600_small", "kinetics600_medium")


def test_the_zoo_is_complete():
    assert set(SPECS) >= {"emoji32_tiny", "emoji64_small", "fashion32_small", *PAPER}
    assert set(SPECS) >= {"emoji_video64_tiny", "emoji_video64_small", "atari128_small", *KINETICS}


@pytest.mark.parametrize("name", SPECS)
def test_editors_find_the_schema(name):
    assert SPECS[name].read_text("utf-8").splitlines()[0] == "# yaml-language-server: $schema=schema.json"


@pytest.mark.parametrize("name", SPECS)
def test_the_description_is_one_short_line(name):
    assert 10 < len(load_spec(name).description) <= 100 and "\n" not in load_spec(name).description


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_autoencoder(name):
    """The paper's encoder, prior, decoder."""
    spec = load_spec(name)
    assert spec.latent.channels == 32 and spec.latent.downsample == (16, 16) and spec.latent.logsnr == 5.0
    encoder, prior, decoder = spec.encoder, spec.prior, spec.decoder
    assert (encoder.kind, encoder.patch, encoder.channels) == ("resnet", 2, (128, 256, 512, 512))
    assert encoder.blocks == (2, 2, 2, 3)
    assert prior.weighting.kind == "elbo" and prior.schedule.logsnr_max == 5.0
    assert decoder.backbone.kind == "uvit" and decoder.weighting.kind == "sigmoid"
    assert spec.train.latents.prior_warmup_steps == 0  # not in the paper


@pytest.mark.parametrize("name", KINETICS)
def test_the_papers_kinetics(name):
    """The paper's 16 frames of 128², 4×8×8, 5 context frames and 11 generated, the same encoder, prior and decoder."""
    spec = load_spec(name)
    assert (spec.data.kind, spec.data.frames, spec.data.resolution) == ("kinetics600", 16, 128)
    assert spec.latent.downsample == (4, 8, 8) and spec.conditioning.frames == 5
    image = load_spec("imagenet512_small")
    for part, keys in {"encoder": ("patch", "channels", "blocks"), "prior": ("width", "depth")}.items():
        ours, theirs = (getattr(s, part) if part == "encoder" else getattr(s, part).backbone for s in (spec, image))
        assert all(getattr(ours, key) == getattr(theirs, key) for key in keys)
    decoder = spec.decoder.backbone
    assert (decoder.kind, decoder.patch, decoder.channels) == ("uvit", 2, (128, 256, 512))
    assert (decoder.width, decoder.depth, decoder.dropout) == (1024, 8, 0.1)


@pytest.mark.parametrize(("name", "gflops"), [("kinetics600_small", 30.7), ("kinetics600_medium", 161)])
def test_the_cost_of_the_kinetics_bases(name, gflops):
    text = SPECS[name].read_text("utf-8")
    assert f"{gflops} GFLOPs forward per clip" in text
    assert summarize(load_spec(name)).flops["base"] / 1e9 == pytest.approx(gflops, rel=0.005)


def test_the_papers_larger_base():
    backbone = load_spec("imagenet512_medium").base.backbone
    assert (backbone.kind, backbone.channels, backbone.blocks) == ("hierarchical_vit", (512, 1024), (6, 16))


def test_an_autoencoder_of_other_data():
    """The networks of the two specs are the same, so that all tensors fit; only the base is trained."""
    spec, source = load_spec("imagenet512_medium_t2i_autoencoder"), load_spec("text2image512_300g")
    assert spec.init.model == f"runs/{source.name}" and spec.init.freeze == spec.init.parts == STAGES["latents"]
    assert spec.stages == ("base",) and spec.base == load_spec("imagenet512_medium").base
    ours, theirs = (compile_model(each, "meta").state_dict() for each in (spec, source))
    shapes = {name: tensor.shape for name, tensor in theirs.items() if not name.startswith("base.")}
    assert shapes == {name: tensor.shape for name, tensor in ours.items() if not name.startswith("base.")}
    assert not any(changed_keys(source, spec, network) for network in STAGES["latents"])


@pytest.mark.parametrize(("resolution", "bias"), [(64, 2.0), (128, 0.0), (256, -1.0), (512, -3.0)])
@pytest.mark.parametrize("size", ["small", "medium"])
def test_imagenet_by_resolution(resolution, bias, size):
    """The biases reported for SiD2, and simple diffusion's shifts, 2 log(noise resolution / resolution)."""
    spec = load_spec(f"imagenet{resolution}_{size}")
    assert spec.data.resolution == resolution and spec.decoder.weighting.bias == bias
    schedule = spec.decoder.schedule
    assert schedule.low == pytest.approx(2 * math.log(32 / resolution), abs=1e-8)
    assert schedule.high == pytest.approx(2 * math.log(min(256, resolution) / resolution), abs=1e-8)
    assert spec.base.backbone == load_spec(f"imagenet512_{size}").base.backbone


@pytest.mark.parametrize("gflops", [100, 300, 970])
def test_the_cost_of_the_text_to_image_bases(gflops):
    """The bases of Table 1, and its baselines at the same cost without their convolutions, all within 2 %."""
    specs = {kind: load_spec(f"paper/table1_text2image:{kind}-{gflops}g") for kind in ("ul", "pixels", "sd_latents")}
    assert specs["ul"] == load_spec(f"text2image512_{gflops}g")
    for spec in specs.values():
        assert linear_gflops(spec) == pytest.approx(gflops, rel=0.02)


def test_the_unet_on_stable_diffusions_latents_costs_as_much_as_the_medium_base():
    unet = load_spec("paper/figure4_imagenet512:sd_latents-unet")
    assert linear_gflops(unet) == pytest.approx(linear_gflops(load_spec("imagenet512_medium")), rel=0.02)


def linear_gflops(spec) -> float:
    """Forward GFLOPs of the base without convolutions, which the paper does not count."""
    rows = [row for row in summarize(spec).blocks if row.path.startswith("base.")]
    convolutional = ("base.stem", "base.down", "base.coarsen", "base.grow", "base.up", "base.out")
    uvit = spec.base.backbone.kind == "uvit"
    return sum(row.flops for row in rows if not (uvit and row.path.startswith(convolutional))) / 1e9


def test_the_schema_beside_the_specs_is_current():
    """Run `make schema` if it is not."""
    assert json.loads((ROOT / "specs/schema.json").read_text("utf-8")) == json_schema()
