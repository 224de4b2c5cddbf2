"""The device that a command runs on."""

import contextlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup/memory.max")


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the best one here: CUDA, then Apple's MPS, then the CPU.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps"; None picks.

    Raises:
        ValueError: no such device, or not on this machine.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise ValueError(f"unknown device {name!r}; known here: cpu, cuda, cuda:N, mps")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(_has_mps())}[kind]
    if int(number or 0) >= there:
        raise ValueError(f"there is no device {name!r} on this machine" + (f", {there} of its kind" if there else ""))
    return torch.device(name)


def memory_of(device: torch.device) -> int:
    """Bytes of the device's memory; of the CPU the machine's, or what of it a container may have."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP.read_text().strip() if CGROUP.exists() else "max"
    return whole if limit == "max" else min(whole, int(limit))


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are native on `device`; elsewhere autocast would be slower than fp32."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast if asked for and native, else fp32."""
    if precision == "bf16" and has_bf16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
