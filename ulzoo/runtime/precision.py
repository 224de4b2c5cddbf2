"""Where bf16 autocast runs: on GPUs, and on processors that multiply bfloat16 in hardware."""

import contextlib
from contextlib import AbstractContextManager

import torch


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
