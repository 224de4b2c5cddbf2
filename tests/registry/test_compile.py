"""Compiling: every packaged spec fits on `meta`, sizes are derived, and errors are located."""

import json

import pytest
import torch

from ulzoo.registry import SpecError, find_specs, load_spec
from ulzoo.registry.compile import compile_model, data_contract
from ulzoo.registry.cost import networks
from ulzoo.registry.cost.networks import NetworkSummary, read_recorded
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.zoo.overview import RECORDED, costs_row

TINY = "tests/tiny.yaml"
RECORDED_COSTS = json.loads(RECORDED.read_text("utf-8"))


MEASURED: dict[str, NetworkSummary] = {}
"""The networks of packaged specs, of which some share theirs."""


@pytest.mark.parametrize("name", find_specs())
def test_every_packaged_spec_compiles(name, monkeypatch):
    recorded = read_recorded()
    monkeypatch.setattr(networks, "read_recorded", dict)
    monkeypatch.setattr(networks, "_MEASURED", MEASURED)
    spec = load_spec(name)
    summary = summarize(spec)  # checks the output of every network
    assert MEASURED.items() <= recorded.items(), "the recorded networks are old: run `make costs`"
    size = data_contract(spec).size
    assert summary.resolution == size
    expected = tuple(extent // factor for extent, factor in zip(size, spec.latent.downsample, strict=True))
    assert summary.latent == (spec.latent.channels, *expected)
    free = {"encoder"} if spec.encoder.kind == "identity" else set()
    for counts in (summary.parameters, summary.flops):
        assert {name for name, count in counts.items() if count == 0} == free
    assert RECORDED_COSTS[name] == costs_row(name, spec, summary), "the recorded costs are old: run `make costs`"


def test_costs_are_recorded_of_packaged_specs_alone():
    assert list(RECORDED_COSTS) == list(find_specs()), "run `make costs`"


def test_the_contract_is_derived(tiny):
    model = compile_model(tiny("latent.downsample=[8, 4]", "latent.channels=6", "latent.logsnr=4"))
    contract = model.contract
    assert (contract.size, contract.channels) == ((16, 16), 3)
    assert contract.latent_shape == (6, 2, 4) and contract.latent_logsnr == 4
    assert model.prior.diffusion.schedule.logsnr_max == model.base.diffusion.schedule.logsnr_max == 4
    assert contract.num_classes == 2
    assert {name: sampling.steps for name, sampling in contract.sampling.items()} == {"base": 3, "decoder": 2}
    assert model.encode(torch.zeros(2, 3, 16, 16)).shape == (2, 6, 2, 4)
    assert model.base.network.num_classes == 2 and model.prior.network.num_classes == 0
    assert not model.training


def test_fresh_weights_depend_on_the_seed_alone(tiny):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a = compile_model(tiny())
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(5)
    b, other = compile_model(tiny()), compile_model(tiny("train.latents.seed=1"))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.encoder.embed.weight, other.encoder.embed.weight)


def test_another_base_does_not_change_the_first_stage(tiny):
    a, b = compile_model(tiny()), compile_model(tiny("base.backbone.width=48"))
    for name in ("encoder", "prior", "decoder"):
        for x, y in zip(getattr(a, name).parameters(), getattr(b, name).parameters(), strict=True):
            assert torch.equal(x, y)


def test_meta_takes_no_memory(tiny):
    model = compile_model(tiny(), "meta")
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


RESNET = "{kind: resnet, patch: 2, channels: [16, 16], blocks: [1, 1]}"
WRONG = {  # text in tiny.yaml, its replacement, key and words of the error
    "a patch that does not divide": ("kind: vit, patch: 4", "kind: vit, patch: 3", "decoder.backbone.patch", "divide"),
    "heads that do not divide": ("depth: 1, heads: 2}\n", "depth: 1, heads: 5}\n", "encoder.heads", "divide"),
    "labels without labels": (", num_classes: 2", "", "base.class_conditional", "the data has no class labels"),
    "downsample that does not divide": ("[4, 4]", "[4, 3]", "latent.downsample", "does not divide"),
    "three dimensions": ("[4, 4]", "[1, 4, 4]", "latent.downsample", "has 3 dimensions"),
    "an encoder that downsamples otherwise": (
        "{kind: vit, width: 32, depth: 1, heads: 2}\nprior",
        f"{RESNET.replace('patch: 2', 'patch: 8')}\nprior",
        "encoder.patch",
        "latent.downsample asks for [4, 4]",
    ),
    "stages without blocks": (
        "{kind: vit, width: 32, depth: 1, heads: 2}\nprior",
        f"{RESNET.replace('[1, 1]', '[1]')}\nprior",
        "encoder.channels",
        "one entry per stage",
    ),
    "a loss factor below zero": ("loss_factor: 3.0", "loss_factor: -3.0", "decoder.weighting.loss_factor", "positive"),
    "a schedule that rises": (
        "  class_conditional: true",
        "  schedule: {kind: cosine, logsnr_min: 7}",
        "base.schedule.logsnr_min",
        "must be below",
    ),
}


@pytest.mark.parametrize("old, new, key, words", WRONG.values(), ids=WRONG)
def test_errors_are_located(old, new, key, words, pytestconfig, tmp_path, monkeypatch):
    text = (pytestconfig.rootpath / TINY).read_text()
    assert old in text
    text = text.replace(old, new, 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text(text)
    spec = load_spec("wrong.yaml")
    with pytest.raises(SpecError) as error:
        summarize(spec)
    place, _, rest = str(error.value).partition(": ")
    assert rest.startswith(f"{key}: ") and words in rest and "\n" not in rest
    file, _, line = place.partition(":")
    last = key.rpartition(".")[2]
    assert file == "wrong.yaml" and last in text.splitlines()[int(line) - 1]


def test_an_override_is_its_own_location(tiny):
    with pytest.raises(SpecError, match=r"^--set encoder.heads=5: heads 5 does not divide the width 32$"):
        compile_model(tiny("encoder.heads=5"), "meta")
