"""Faster inference: networks in bfloat16, compiled, or both."""

from typing import Literal

import torch
from torch import nn

from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.devices import has_bf16
from ulzoo.training.parallelize import compile_blocks, trainable_networks

Precision = Literal["fp32", "bf16"]


def optimize_for_inference(
    model: UnifiedLatents, *, precision: Precision = "fp32", compile: bool = False
) -> UnifiedLatents:
    """Run a model's networks in bf16 by autocast, compile their blocks, or both; all else remains in fp32.

    The model is modified in place and returned.

    Args:
        compile: compilation takes seconds at the first call, and again when the batch size first changes.

    Raises:
        ValueError: the device does not support bfloat16.
    """
    networks = nn.ModuleDict(dict(model.named_children()))
    device = model.device
    if precision == "bf16":
        if not has_bf16(device):
            raise ValueError(f"this {device.type} does not support bfloat16; use --precision fp32")
        for network in trainable_networks(networks):
            network.forward = torch.autocast(device.type, torch.bfloat16)(network.forward)
    if compile:
        compile_blocks(networks)
    return model
