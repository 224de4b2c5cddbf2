"""Exports: what was trained comes back from one file, in any of three precisions; other files say what they are."""

import json
import struct
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
import torch

from ulzoo.files import tensor_file
from ulzoo.registry import load
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs import export as export_module
from ulzoo.registry.runs.export import load_export, save_export
from ulzoo.registry.spec.component_table import GROUP
from ulzoo.registry.spec.components import BACKBONES, find_plugins
from ulzoo.training.checkpoint import TrainingState
from ulzoo.training.checkpointing import CheckpointManager

RESULTS = {"figures": {"psnr_db": 20.0, "bits_per_pixel": 0.5}, "protocol": {"images": 6}}


@pytest.fixture(scope="module")
def model(tiny):
    """With random weights everywhere, also where a fresh model has zeros."""
    model = compile_model(tiny())
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return model


@pytest.fixture
def path(model, tiny, tmp_path):
    save_export(path := tmp_path / "model.safetensors", model, tiny(), RESULTS)
    return path


def sample(model) -> torch.Tensor:
    return model.sample(2, labels=[0, 1], generator=torch.Generator().manual_seed(3))


def test_what_comes_back(path, model, tiny):
    export = load_export(path)
    assert export.spec == tiny() and export.results == RESULTS
    assert not export.model.training
    assert export.model.contract == model.contract
    assert torch.equal(sample(export.model), sample(model))
    assert torch.equal(sample(load(path)), sample(load(path.parent)))  # a run directory holds its export by this name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_precisions(dtype, model, tiny, tmp_path):
    save_export(path := tmp_path / "x.safetensors", model, tiny(), RESULTS, dtype)
    stored = tensor_file.read(path)
    assert {tensor.dtype for tensor in stored.tensors.values()} == {getattr(torch, dtype)}
    assert stored.metadata["dtype"] == dtype
    loaded = load(path)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(getattr(torch, dtype)).float())
    assert (sample(loaded) - sample(model)).abs().max() <= {"float32": 0, "float16": 0.02, "bfloat16": 0.15}[dtype]
    assert sample(loaded).shape == (2, 3, 16, 16) and sample(loaded).abs().max() <= 1


def test_metadata_says_what_it_is(path, tiny):
    metadata = tensor_file.read_metadata(path)
    assert metadata["spec"] == tiny().to_dict() and metadata["spec_hash"] == tiny().hash
    assert metadata["stages"] == ["latents", "base"] and metadata["results"] == RESULTS
    assert metadata["versions"].keys() == {"ulzoo", "torch"}


def test_without_a_second_stage(tiny, tmp_path):
    model = compile_model(tiny())
    model.base = None
    save_export(path := tmp_path / "x.safetensors", model, tiny(), RESULTS)
    loaded = load(path)
    assert loaded.base is None
    x = torch.zeros(1, 3, 16, 16)
    assert loaded.reconstruct(x).shape == x.shape and loaded.rate(x).shape == (1,)
    with pytest.raises(ValueError, match="no base: its second stage was not trained"):
        loaded.sample(1)
    with pytest.raises(ValueError, match="no base"):
        loaded.rate(x, network="base")


def message(path) -> str:
    with pytest.raises(ValueError) as error:
        load(path)
    assert len(str(error.value).splitlines()) == 1 and str(path) in str(error.value)
    return str(error.value)


def test_a_training_checkpoint_names_the_command(tmp_path):
    path = CheckpointManager(tmp_path).save(TrainingState("latents", 1, {"model.a": torch.zeros(1)}, {}))
    assert "ulzoo export" in message(path)


def test_an_altered_file(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "does not match its digest" in message(path)


def test_a_spec_of_a_newer_version(path, model):
    content = tensor_file.read(path)
    spec = content.metadata["spec"]
    spec["encoder"]["swirl"] = 3
    tensor_file.write(path, content.tensors, content.metadata | {"spec": spec})
    assert "its spec does not fit this version of ulzoo: encoder.swirl: unknown key" in message(path)


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        (
            {"encoder 'mine'": "ulzoo-mine 1.2"},
            "its encoder 'mine' is in the package ulzoo-mine 1.2, which is not installed",
        ),
        ({}, "no package that is installed here has its encoder 'mine'; install the plug-in that adds it"),
        ([], "no package that is installed here has its encoder 'mine'"),
    ],
)
def test_a_missing_plugin_is_named(path, plugins, expected):
    content = tensor_file.read(path)
    content.metadata["spec"]["encoder"]["kind"] = "mine"
    tensor_file.write(path, content.tensors, content.metadata | {"plugins": plugins})
    assert expected in message(path) and "version" not in message(path)


def test_an_export_names_the_packages_of_its_plugins(path, model, tiny, monkeypatch):
    """A plug-in that is installed but cannot be imported is named too, and not called another version."""
    point = EntryPoint("backbone.mine", "no_such_module:Mine", GROUP)
    vars(point).update(dist=SimpleNamespace(name="ulzoo-mine", version="1.2"))
    monkeypatch.setattr(BACKBONES, "_plugins", {"mine": point})
    spec = tiny().to_dict()
    spec["decoder"]["backbone"]["kind"] = "mine"
    assert find_plugins(spec) == {"backbone 'mine'": "ulzoo-mine 1.2"}
    content = tensor_file.read(path)
    tensor_file.write(path, content.tensors, content.metadata | {"spec": spec})
    expected = "its backbone 'mine' of package 'ulzoo-mine' cannot be imported: No module named 'no_such_module'"
    assert message(path).endswith(expected)


def test_an_optional_package_is_named(path, monkeypatch):
    def compile_model(*args, **options):
        try:
            raise ImportError("No module named 'diffusers'")
        except ImportError:
            raise ValueError("encoder needs the package diffusers: pip install 'ulzoo[diffusers]'") from None

    monkeypatch.setattr("ulzoo.registry.runs.export.compile_model", compile_model)
    assert message(path) == f"{path}: encoder needs the package diffusers: pip install 'ulzoo[diffusers]'"


def test_weights_of_other_networks(path, tiny):
    content = tensor_file.read(path)
    tensor_file.write(path, content.tensors, content.metadata | {"spec": tiny("encoder.depth=2").to_dict()})
    assert "its weights do not fit its spec in this version of ulzoo: Missing key" in message(path)
    tensor_file.write(path, content.tensors, content.metadata | {"spec": tiny("latent.channels=5").to_dict()})
    assert "size mismatch for" in message(path)


LARGE = {
    "modules": (["encoder.depth=1000000000"], "encoder: this makes more than 10,000 modules"),
    "parameters": (["base.backbone.width=3000000"], "base.backbone: this makes more than 1,000,000,000,000 parameters"),
    "tables": (["data.resolution=100000", "encoder.positions=rotary"], "this makes tables of more than 100,000,000"),
    "overflow": (["encoder.width=4000000000000000000"], "the networks cannot be built: Storage size calculation"),
    "other sizes": (
        ["encoder.width=100000"],
        "its weights do not fit its spec in this version of ulzoo: size mismatch",
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_spec_that_would_fill_the_memory(path, tiny, case, monkeypatch):
    """What a model would take is found on the meta device, which takes nothing."""
    overrides, words = LARGE[case]
    content = tensor_file.read(path)
    tensor_file.write(path, content.tensors, content.metadata | {"spec": tiny(*overrides).to_dict()})
    devices = []
    build = export_module.compile_model
    monkeypatch.setattr(
        export_module, "compile_model", lambda spec, device, **how: devices.append(device) or build(spec, device, **how)
    )
    assert words in message(path)
    assert devices == ["meta"]


@pytest.mark.parametrize("key", ["spec", "results", "stages"])
@pytest.mark.parametrize("value", [None, 3, "latents", [[]], [{}]], ids=str)
def test_metadata_of_another_make(path, key, value):
    content = tensor_file.read(path)
    tensor_file.write(path, content.tensors, content.metadata | {key: value})
    assert "damaged (an export has" in message(path)


def test_a_newer_format(path):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["version"] = "9"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    assert "upgrade ulzoo" in message(path)


def test_writing_leaves_nothing_beside(path):
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (1e5, "float16", "exceeds the range of float16; use --dtype bfloat16"),
        (float("nan"), "float32", "is NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit_are_not_written(tiny, tmp_path, value, dtype, message):
    model = compile_model(tiny())
    with torch.no_grad():
        next(model.encoder.parameters()).flatten()[0] = value
    with pytest.raises(ValueError, match=f"not written: the weight encoder.* {message}"):
        save_export(tmp_path / "x.safetensors", model, tiny(), RESULTS, dtype)
    assert not list(tmp_path.iterdir())
