"""Folders and repositories by huggingface_hub's conventions: the same model comes back, and no file is lost."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

import ulzoo
from ulzoo.model.pretrained import LatentStatistics
from ulzoo.registry.compile import compile_model

FILES = {"model.safetensors", "spec.yaml", "ulzoo.yaml", "config.json", "README.md"}


@pytest.fixture
def model(tiny):
    model = compile_model(tiny())
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    model.latent_statistics = LatentStatistics((0.5,) * 4, (2.0, 1.0, 1.0, 3.0))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_comes_back_is_bit_identical(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path / "tiny")
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == FILES
    loaded = ulzoo.UnifiedLatents.from_pretrained(tmp_path / "tiny", dtype=dtype)
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    samples = [m.sample(2, labels=[0, 1], generator=torch.Generator().manual_seed(1)) for m in (model, loaded)]
    assert torch.equal(*samples)
    assert loaded.latent_statistics == model.latent_statistics and loaded.config == model.config
    with safe_open(tmp_path / "tiny" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}  # noqa: SIM118


def test_files_follow_the_conventions_of_the_hub(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["library_name"] == "ulzoo" and config["model_type"] == "unified_latents"
    assert config["spec"] == model.config.to_dict()
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "ulzoo" and "unified-latents" in card.data.tags
    (tmp_path / "README.md").write_text("my own card")
    model.save_pretrained(tmp_path, dtype="float16")
    assert (tmp_path / "README.md").read_text() == "my own card"
    assert ulzoo.load(tmp_path).latent_statistics == model.latent_statistics


def test_files_of_others_are_not_replaced(model, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"contains config\.json, which save_pretrained did not write"):
        model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    (file := tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        model.save_pretrained(file)


def test_models_that_cannot_be_saved(model, tmp_path):
    with pytest.raises(ValueError, match=r"the weights are torch\.float64: give `dtype`"):
        model.double().save_pretrained(tmp_path)
    model.base.half()
    with pytest.raises(ValueError, match=r"float16 and torch\.float64"):
        model.save_pretrained(tmp_path)
    del model.config
    with pytest.raises(ValueError, match="not compiled from a spec"):
        model.float().save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_hub(hub, model):
    address = model.push_to_hub("me/tiny", license="mit")
    assert address.startswith("hf://me/tiny@")
    repository = hub.repositories["me/tiny"]
    assert repository.commits[repository.refs["main"]].keys() >= FILES
    for name, revision in (("me/tiny", None), ("me/tiny", address.partition("@")[2]), ("hf://me/tiny", "main")):
        loaded = ulzoo.from_pretrained(name, revision=revision)
        assert loaded.latent_statistics == model.latent_statistics
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match="a revision belongs to an address"):
        ulzoo.from_pretrained(address, revision="main")
    with pytest.raises(ValueError, match="a revision belongs to an address"):
        ulzoo.from_pretrained("emoji32_tiny", revision="main")
