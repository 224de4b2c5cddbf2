"""Devices: which one to use, how much memory it has, and in which precision it computes well."""

import ctypes
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
CGROUP = Path("/sys/fs/cgroup/memory.max")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt` in glibc's malloc.h."""


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the best of this machine: CUDA, then Apple's MPS, then the CPU.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps"; None picks the best one.

    Raises:
        ValueError: the device is unknown, or this machine does not have it.
    """
    has_mps = torch.backends.mps.is_available()
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise ValueError(f"unknown device {name!r}; known devices: cpu, cuda, cuda:N, mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(has_mps)}[kind]
    if int(number or 0) >= count:
        raise ValueError(f"this machine has no device {name!r}" + (f", only {count} of its kind" if count else ""))
    return torch.device(name)


def as_device(device: torch.device | str) -> torch.device:
    """A device that this machine has, or the device meta.

    Raises:
        TypeError: not a device or its name.
        ValueError: the device is unknown, or this machine does not have it.
    """
    if not isinstance(device, torch.device | str):
        raise TypeError(f"device must be a torch.device or its name, got {type(device).__name__}")
    return torch.device("meta") if str(device) == "meta" else pick_device(str(device))


def device_memory(device: torch.device) -> int:
    """Bytes of memory of a device. The CPU's is the machine's, or the limit of the container."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP.read_text().strip() if CGROUP.exists() else "max"
    return machine if limit == "max" else min(machine, int(limit))


def keep_freed_memory(device: torch.device) -> None:
    """On the CPU, let glibc keep the memory of freed tensors for the next ones, up to 32 MiB each.

    It gives most of it back to the system, which then clears the memory of every training step page by page.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if device.type == "cpu" and mallopt:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # bytes, as much as glibc accepts
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively; on others autocast is slower than fp32.

    A CPU needs the instructions, and `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` must not forbid them.
    """
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        allowed = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        with_mkldnn = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return native and allowed and with_mkldnn
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def effective_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision that networks compute in on a device: "bf16" only if it is requested and native."""
    return "bf16" if precision == "bf16" and has_bf16(device) else "fp32"


def tf32_operations(device: torch.device) -> list[str]:
    """The operations that round fp32 inputs to TensorFloat-32, as PyTorch is set now: none but on NVIDIA's GPUs.

    PyTorch does so by default in convolutions, and not in matrix products.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return []
    switches = {
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
    return [operation for operation, enabled in switches.items() if enabled]


def product_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype of matrix products that tolerate bfloat16: emulated, it is many times slower than float32."""
    return torch.bfloat16 if has_bf16(device) else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which networks compute in their `effective_precision`."""
    bf16 = effective_precision(precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
