"""The zoo by name: specs, released models, and every way to get one."""

import hashlib
import re
from pathlib import Path

import pytest
import torch

import ulzoo
from ulzoo.registry import find_specs, load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.export import save_export
from ulzoo.registry.spec import loading as spec_module
from ulzoo.registry.zoo import catalogue
from ulzoo.registry.zoo.catalogue import create_model, list_models, load, open_results
from ulzoo.registry.zoo.release import ReleaseManifest


@pytest.fixture
def zoo(tiny, images, tmp_path, monkeypatch) -> Path:
    """The packaged specs `tiny` and `tiny_wide`, and released weights of the first; the weights' file."""
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "tiny.yaml").write_text(tiny().to_yaml())
    (specs / "tiny_wide.yaml").write_text("extends: tiny\nname: tiny_wide\nencoder: {width: 48}\n")
    monkeypatch.setattr(spec_module, "files", lambda package: specs)
    weights = tmp_path / "tiny.safetensors"
    save_export(weights, compile_model(tiny("train.latents.seed=5")), tiny("train.latents.seed=5"), {"figures": {}})
    monkeypatch.setattr(catalogue, "WEIGHTS", tmp_path)
    manifest = ReleaseManifest(
        name="tiny",
        sha256={"tiny.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()},
        license="CC0",
        data="gradients",
        command="ulzoo train",
        trained="not at all",
        figures={},
        protocol={},
    )
    monkeypatch.setattr(catalogue, "releases", lambda: {"tiny": manifest})
    return weights


def test_lists(zoo):
    assert list_models() == ["tiny", "tiny_wide"]
    assert list_models("*_w?de") == ["tiny_wide"]
    assert list_models("TINY") == [] and list_models("") == []
    assert list_models(pretrained=True) == ["tiny"] and list_models(pretrained=False) == ["tiny_wide"]


def test_loads_by_name(zoo):
    model = load("tiny")
    assert not model.training
    torch.manual_seed(0)
    assert torch.equal(
        load("tiny").sample(1, generator=torch.Generator().manual_seed(0)),
        model.sample(1, generator=torch.Generator().manual_seed(0)),
    )
    assert torch.equal(load(zoo).encoder.embed.weight, model.encoder.embed.weight)


def test_altered_weights_are_refused_at_every_load(zoo):
    load("tiny")
    content = bytearray(zoo.read_bytes())
    content[-1] ^= 1
    zoo.write_bytes(content)
    for get in (load, lambda name: create_model(name, pretrained=True), load):
        with pytest.raises(ValueError, match=r"SHA-256 is [0-9a-f]{12}…, but [0-9a-f]{12}… in its manifest"):
            get("tiny")
    zoo.unlink()
    with pytest.raises(ValueError, match="missing from this installation"):
        load("tiny")


def test_another_export_in_their_place_is_refused(zoo, tiny):
    save_export(zoo, compile_model(tiny()), tiny(), {})
    with pytest.raises(ValueError, match="SHA-256"):
        load("tiny")


def test_creates_fresh_and_pretrained(zoo, tiny):
    fresh, again, pretrained = create_model("tiny"), create_model(tiny()), create_model("tiny", pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), again.parameters(), strict=True))
    assert not torch.equal(fresh.encoder.embed.weight, pretrained.encoder.embed.weight)
    assert torch.equal(pretrained.encoder.embed.weight, load("tiny").encoder.embed.weight)
    assert create_model("tiny", overrides=["encoder.width=64"]).encoder.embed.out_features == 64


def test_creating_a_model_that_cannot_be_created(zoo, tiny):
    with pytest.raises(ValueError, match="overrides apply to a spec's file"):
        create_model(tiny(), overrides=["encoder.width=64"])
    for get in (load_spec, create_model):
        with pytest.raises(ValueError, match=r"^overrides: expected a list"):
            get("tiny", overrides="encoder.width=64")
    with pytest.raises(ValueError, match=r"do not fit a changed encoder\.width"):
        create_model("tiny", pretrained=True, overrides=["encoder.width=64"])
    with pytest.raises(ValueError, match="tiny_wide: no weights are released for this spec"):
        create_model("tiny_wide", pretrained=True)
    with pytest.raises(ValueError, match="no spec named 'tinny'; did you mean 'tiny'"):
        create_model("tinny")


def test_releases_of_older_versions_are_read_where_they_were(zoo, tmp_path, monkeypatch):
    """`registry/cards/NAME.yaml` beside `registry/weights`."""
    manifest = catalogue.releases()["tiny"]
    monkeypatch.undo()
    monkeypatch.setattr(catalogue, "_REGISTRY", tmp_path / "registry")
    (tmp_path / "registry" / "cards").mkdir(parents=True)
    (tmp_path / "registry" / "weights").mkdir()
    (tmp_path / "registry" / "cards" / "tiny.yaml").write_text(manifest.to_yaml())
    zoo.rename(tmp_path / "registry" / "weights" / zoo.name)
    monkeypatch.setattr(catalogue, "RELEASES", (tmp_path / "absent", tmp_path / "registry" / "cards"))
    assert catalogue.releases.__wrapped__() == {"tiny": manifest}
    monkeypatch.setattr(catalogue, "releases", lambda: {"tiny": manifest})
    assert not load("tiny").training


def test_loading_a_model_that_is_not_there(zoo, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="tiny_wide: no weights are released for this spec; train it"):
        load("tiny_wide")
    with pytest.raises(ValueError, match="tinny: no such file, run directory or released model; did you mean 'tiny'"):
        load("tinny")
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=re.escape("contains no model.safetensors; has the training finished?")):
        load(tmp_path / "run")


AMBIGUOUS = "tiny: is both a released model and a {} here; write released:tiny for the model or ./tiny for the {}"


def test_a_name_that_is_also_a_folder_or_file_is_refused(zoo, tiny, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("tiny").mkdir()
    for get in (load, open_results):
        with pytest.raises(ValueError, match=f"^{re.escape(AMBIGUOUS.format('folder', 'folder'))}$"):
            get("tiny")
    with pytest.raises(ValueError, match=r"contains no model\.safetensors"):
        load("./tiny")  # empty
    local = tiny("train.latents.seed=9")
    save_export(Path("tiny/model.safetensors"), compile_model(local), local, {"figures": {"a": 1}, "protocol": {}})
    released, of_folder = load("released:tiny").encoder.embed.weight, load("./tiny").encoder.embed.weight
    assert not torch.equal(released, of_folder)
    assert torch.equal(load(Path("tiny")).encoder.embed.weight, of_folder)
    assert torch.equal(load(Path("tiny").absolute()).encoder.embed.weight, of_folder)
    assert torch.equal(create_model("tiny", pretrained=True).encoder.embed.weight, released)
    Path("tiny/figures.json").write_text('{"figures": {"a": 1}, "protocol": {}}')
    assert open_results("./tiny")["figures"] == {"a": 1} and open_results("released:tiny")["figures"] == {}
    Path("tiny").rename("run")
    Path("tiny").touch()
    with pytest.raises(ValueError, match=f"^{re.escape(AMBIGUOUS.format('file', 'file'))}$"):
        load("tiny")


def test_a_released_model_by_its_unambiguous_name(zoo):
    assert torch.equal(load("released:tiny").encoder.embed.weight, load("tiny").encoder.embed.weight)
    with pytest.raises(ValueError, match=r"^released:tinny: there is no released model .*did you mean 'tiny'\?$"):
        load("released:tinny")
    with pytest.raises(ValueError, match=r"^released:tiny_wide: there is no released model"):
        open_results("released:tiny_wide")


# ---------------------------------------------------------------------------------------------------- the packaged zoo


def test_every_packaged_spec_is_named_after_its_file():
    assert "emoji32_tiny" in find_specs()
    assert {name: load_spec(name).name for name in find_specs()} == {name: name for name in find_specs()}
    assert ulzoo.list_models() == sorted(find_specs())


def test_the_weights_of_all_releases_fit_into_the_package():
    assert sum(path.stat().st_size for path in catalogue.WEIGHTS.iterdir()) <= 30e6


@pytest.mark.parametrize("name", catalogue.releases())
def test_every_release_belongs_to_a_spec_and_its_weights_load(name):
    manifest = catalogue.releases()[name]
    assert manifest.name == name and name in find_specs()
    assert manifest.data and manifest.command and manifest.trained and manifest.figures and manifest.protocol
    export = catalogue.open_model(name)
    figures = export.results["figures"]
    assert figures.keys() == manifest.figures.keys()
    assert all(figures[key] == pytest.approx(figure, rel=1e-3) for key, figure in manifest.figures.items())
    create_model(name, pretrained=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "video" in name else ()) for name in catalogue.releases()]
)
def test_every_release_decodes_in_one_step_samples_and_compresses(name):
    model = load(name)
    contract = model.contract
    x = torch.rand(1, contract.channels, *contract.size) * 2 - 1
    frames = {"frames": x[:, :, : contract.context_frames]} if contract.context_frames else {}
    assert model.decompress(model.compress(x), steps=1).shape == x.shape
    assert model.sample(1, steps=2, **frames).shape == x.shape
    assert model.decode(model.encode(x), steps=1, **frames).isfinite().all() and model.rate(x).isfinite().all()


def test_released_weights_sample_as_the_overrides_say(zoo):
    changes = ["sample.base.steps=7", "train.base.steps=1", "decoder.weighting.loss_factor=3"]
    model = create_model("tiny", pretrained=True, overrides=changes)
    assert model.contract.sampling["base"].steps == 7
    assert load("tiny").contract.sampling["base"].steps == 3
