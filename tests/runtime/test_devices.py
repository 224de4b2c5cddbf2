"""Precision: what a device without native bfloat16 computes in; memory that a process keeps."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ulzoo.data import batches
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.runtime import devices
from ulzoo.training.trainer import Trainer, TrainerOptions

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "convolution", "scaled_dot_product")


class Bf16Products(TorchDispatchMode):
    """Lists the operations that multiply bfloat16 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(name in str(func) for name in PRODUCTS) and any(t.dtype == torch.bfloat16 for t in tensors):
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def products_of_a_step(folder: Path) -> set[str]:
    """The bf16 products of a step of the demo, whose spec asks for bf16 and Muon."""
    spec = load_spec("emoji32_tiny")
    config, source = spec.train.latents, open_source(spec, "train")
    trainer = Trainer(compile_model(spec, "cpu"), "latents", config, source, folder, TrainerOptions(identity={}))
    with Bf16Products() as products:
        trainer._step(next(batches(source, config.batch_size, seed=0)))
    return products.names


def test_a_device_without_bf16_multiplies_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    assert products_of_a_step(tmp_path) == set()


def test_a_device_with_bf16_multiplies_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda device: True)
    assert products_of_a_step(tmp_path)


def test_a_processor_limited_to_avx2_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment limits torch's own kernels or oneDNN's, to emulate an older processor."""
    code = "import torch; from ulzoo.runtime.devices import has_bf16; print(has_bf16(torch.device('cpu')))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "avx2"}
    limited = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert limited.stdout == "False\n"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")  # with ATEN_CPU_CAPABILITY=avx2
    assert not devices.has_bf16(torch.device("cpu"))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_effective_precision(monkeypatch: pytest.MonkeyPatch, precision: Any, native: bool) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda device: native)
    cpu, expected = torch.device("cpu"), precision if native else "fp32"
    assert devices.effective_precision(precision, cpu) == expected
    assert devices.product_dtype(cpu) == (torch.bfloat16 if native else torch.float32)
    with devices.autocast(precision, cpu):
        assert torch.is_autocast_enabled("cpu") == (expected == "bf16")


FAULTS = """
import resource
import torch
from ulzoo.runtime.devices import keep_freed_memory
keep_freed_memory(torch.device("cpu"))
def step():
    return sum(float(x.sum()) for x in [torch.ones(1 << 20) for _ in range(10)])  # 40 MB, all freed at its end
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again() -> None:
    """In three processes, as glibc by default returns it in some of them only: 200,000 page faults or none."""
    for _ in range(3):
        result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
        assert int(result.stdout) < 20_000
