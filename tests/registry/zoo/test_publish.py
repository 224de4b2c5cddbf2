"""Publishing: the files on the hub, and models that are not published."""

import hashlib
import shutil

import pytest
import torch
import yaml
from typer.testing import CliRunner

from ulzoo.cli import app
from ulzoo.files import tensor_shards
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.export import export as convert
from ulzoo.registry.runs.export import save_export
from ulzoo.registry.zoo.catalogue import load, load_spec
from ulzoo.registry.zoo.hub import Address
from ulzoo.registry.zoo.publish import push
from ulzoo.registry.zoo.release import read_manifest

ADDRESS = Address("me/tiny", None)


def files(hub, branch="main"):
    repository = hub.repositories["me/tiny"]
    return repository.commits[repository.refs[branch]]


def test_a_published_model_loads(hub, export, tiny):
    result = push(export, ADDRESS, license="CC0-1.0")
    assert result.has_metrics and result.address.repo == "me/tiny"
    assert result.address.revision == hub.repositories["me/tiny"].refs["main"]
    for address in ("hf://me/tiny", "hf://me/tiny@main", str(result.address)):
        loaded = load(address)
        expected = load(export).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
        assert load_spec(address).hash == tiny().hash


def test_the_manifest_pins_the_files(hub, export, tmp_path):
    push(export, ADDRESS, license="CC0-1.0")
    content = files(hub)
    texts = {"spec.yaml", "config.json", "ulzoo.yaml", "README.md"}
    assert set(content) == {".gitattributes", "model.safetensors", *texts}
    (tmp_path / "ulzoo.yaml").write_bytes(content["ulzoo.yaml"])
    manifest = read_manifest(tmp_path / "ulzoo.yaml", "ulzoo.yaml")
    assert manifest.sha256["model.safetensors"] == hashlib.sha256(export.read_bytes()).hexdigest()
    assert manifest.sha256["spec.yaml"] == hashlib.sha256(content["spec.yaml"]).hexdigest()
    assert manifest.weights == "model.safetensors" and manifest.license == "CC0-1.0"
    assert manifest.figures["psnr_db"] == 21.25 and manifest.protocol["images"] == 6


def test_the_model_card_has_metadata_and_text(hub, export):
    push(export, ADDRESS, license="CC0-1.0")
    _, metadata, text = files(hub)["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "library_name": "ulzoo",
        "license": "cc0-1.0",
        "tags": ["ulzoo", "unified-latents", "diffusion"],
    }
    assert 'ulzoo.load("hf://me/tiny")' in text
    assert "| psnr_db | 21.25 | dB |" in text and "images: 6" in text


def test_a_branch(hub, export):
    push(export, ADDRESS)
    main = hub.repositories["me/tiny"].refs["main"]
    push(export, Address("me/tiny", "second"), message="again")
    assert hub.repositories["me/tiny"].refs["main"] == main
    assert 'ulzoo.load("hf://me/tiny@second")' in files(hub, "second")["README.md"].decode()
    load("hf://me/tiny@second")


def test_other_files_are_kept_and_other_weights_deleted(hub, export):
    push(export, ADDRESS)
    hub.repositories["me/tiny"].commit({"model-00001-of-00002.safetensors": b"0" * 64, "samples.png": b"a picture"})
    push(export, ADDRESS)
    assert "samples.png" in files(hub) and "model-00001-of-00002.safetensors" not in files(hub)


def test_private(hub, export):
    push(export, ADDRESS, private=True)
    assert hub.repositories["me/tiny"].private
    hub.repositories["me/tiny"].private = False
    sent = len(hub.sent("PUT"))
    with pytest.raises(ValueError, match="the repository is public and stays so with --private; nothing was uploaded"):
        push(export, ADDRESS, private=True)
    assert len(hub.sent("PUT")) == sent


def test_nothing_that_does_not_load_is_published(hub, export, tmp_path):
    content = bytearray(export.read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    for source in (tmp_path / "model.safetensors", tmp_path):
        with pytest.raises(ValueError, match="does not match its digest"):
            push(source, ADDRESS)
    with pytest.raises(ValueError, match="absent: no such file or run directory"):
        push(tmp_path / "absent", ADDRESS)
    assert hub.requests == []


def test_without_a_token(hub, export, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.echo = "\x1b[31mwho\nare you with"
    with pytest.raises(
        ValueError, match=r"me/tiny: the hub refused the request: your token has no permission \(`hf auth"
    ) as error:
        push(export, ADDRESS)
    assert "hf_other" not in str(error.value) and str(error.value).isprintable()  # the server echoes the token


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_the_command(hub, export):
    result = run("push", export, "hf://me/tiny", "--license", "mit")
    commit = hub.repositories["me/tiny"].refs["main"]
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        f"model.safetensors, spec.yaml, config.json, ulzoo.yaml, README.md, with metrics\n-> hf://me/tiny@{commit}\n"
    )
    result = run("push", export, "hf://me/tiny@a", "--revision", "b")
    assert result.exit_code == 2 and "names a revision already" in result.stderr
    result = run("push", export, "https://huggingface.co/me/tiny")
    assert result.exit_code == 2 and "an address on the hub is hf://ORG/REPO" in result.stderr


def test_a_model_in_parts(hub, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_shards, "PART_BYTES", 200_000)
    save_export(tmp_path / "model.safetensors", compile_model(tiny()), tiny(), {})
    assert not (tmp_path / "model.safetensors").exists()
    push(tmp_path, ADDRESS)
    names = set(files(hub))
    assert {"model.safetensors.index.json", "model-00001-of-00002.safetensors", "spec.yaml"} < names
    model = load("hf://me/tiny")
    assert torch.equal(model.encoder.embed.weight, load(tmp_path).encoder.embed.weight)
    convert(tmp_path / "model.safetensors", tmp_path / "half.safetensors", "float16")
    assert load(tmp_path / "half.safetensors").encoder.embed.weight.shape == model.encoder.embed.weight.shape
    hub.large = {oid: content + b"?" for oid, content in hub.large.items()}
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ValueError, match="SHA-256"):
        load("hf://me/tiny")
