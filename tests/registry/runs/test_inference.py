"""Inference with bf16 and compiled networks."""

import copy
import pickle
import sys

import pytest
import torch

from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.inference import optimize_for_inference
from ulzoo.runtime import devices
from ulzoo.runtime.devices import has_bf16
from ulzoo.training import parallelize as parallel


@pytest.fixture
def model(tiny):
    torch.manual_seed(0)
    model = compile_model(tiny()).eval()
    for parameter in model.parameters():  # some are initialized to zero
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def sample(model):
    return model.sample(4, steps=2, generator=torch.Generator().manual_seed(0))


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="no bfloat16 here")
def test_networks_compute_in_bf16_and_the_rest_in_fp32(model):
    dtypes = []
    before = sample(model)
    assert optimize_for_inference(model, precision="bf16") is model
    for network in (model.base.network, model.decoder.network, model.encoder):
        layer = next(module for module in network.modules() if isinstance(module, torch.nn.Linear))
        layer.register_forward_hook(lambda _, inputs, output: dtypes.append(output.dtype))
    after = sample(model)
    model.encode(after)
    assert set(dtypes) == {torch.bfloat16}
    assert after.dtype == torch.float32
    assert not torch.equal(after, before)
    assert torch.allclose(after, before, atol=0.1)


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="no bfloat16 here")
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_in_bf16_with_its_own_weights(model, duplicate):
    optimize_for_inference(model, precision="bf16")
    before, copied = sample(model), duplicate(model)
    assert torch.equal(sample(copied), before)
    with torch.no_grad():
        for parameter in copied.base.parameters():
            parameter.mul_(1.5)
    assert torch.equal(sample(model), before) and not torch.equal(sample(copied), before)


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="no bfloat16 here")
def test_autocast_ends_with_a_forward_pass_that_fails(model):
    optimize_for_inference(model, precision="bf16")
    with pytest.raises(RuntimeError):
        model.encoder(torch.zeros(1, 3, 5, 5))
    assert not torch.is_autocast_enabled("cpu")


def test_an_unknown_precision_is_refused(model):
    with pytest.raises(ValueError, match="precision must be 'fp32' or 'bf16', got 'fp16'"):
        optimize_for_inference(model, precision="fp16")


def test_a_device_without_bf16_is_refused(model, monkeypatch):
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    with pytest.raises(ValueError, match="this cpu does not support bfloat16"):
        optimize_for_inference(model, precision="bf16")


def test_every_block_is_compiled(model, monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # an executable that exists
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    optimize_for_inference(model, compile=True)
    blocks = {id(module) for module in model.modules() if isinstance(module, parallel.BLOCKS)}
    assert blocks and {id(module) for module in compiled} >= blocks


def test_without_options_nothing_changes(model):
    before = sample(model)
    assert torch.equal(sample(optimize_for_inference(model)), before)


def test_compiling_for_a_cpu_needs_a_compiler(model, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no-such-compiler is not installed"):
        optimize_for_inference(model, compile=True)
