"""A trained model made quicker: its networks in bfloat16, and compiled."""

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
    """Let a model's networks compute in bf16 by autocast, compiled block by block, or both; all else stays in fp32.

    The model itself is changed, on the device where it is, and given back.

    Args:
        compile: takes seconds at the first call, and again where the size of a batch changes for the first time.

    Raises:
        ValueError: the device has no bfloat16.
    """
    networks = nn.ModuleDict(dict(model.named_children()))
    device = model.device
    if precision == "bf16":
        if not has_bf16(device):
            raise ValueError(f"{device.type} here does not multiply bfloat16; leave it at --precision fp32")
        for network in trainable_networks(networks):
            network.forward = torch.autocast(device.type, torch.bfloat16)(network.forward)
    if compile:
        compile_blocks(networks)
    return model
