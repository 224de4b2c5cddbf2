"""Faster inference: networks in bfloat16, compiled, or both."""

import threading
from typing import Any

import torch
from torch import nn

from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.devices import Precision, effective_precision
from ulzoo.runtime.messages import one_line


def optimize_for_inference(
    model: UnifiedLatents, *, precision: Precision = "fp32", compile: bool = False
) -> UnifiedLatents:
    """Run a model's networks in bf16 by autocast, compile their blocks, or both; all else remains in fp32.

    The model is modified in place and returned. Its copies and pickles run as it does, with their own weights.

    Args:
        precision: "fp32" or "bf16".
        compile: compilation takes seconds at the first call, and again when the batch size first changes.

    Raises:
        ValueError: an unknown precision, or the device does not support bfloat16.
    """
    if not isinstance(model, UnifiedLatents):
        raise TypeError(f"model must be a UnifiedLatents, as `ulzoo.load` returns, got {type(model).__name__}")
    if not isinstance(precision, str) or precision not in ("fp32", "bf16"):
        raise ValueError(f"precision must be 'fp32' or 'bf16', got {one_line(repr(precision))}")
    if not isinstance(compile, bool):
        raise TypeError(f"compile must be True or False, got {type(compile).__name__}")
    networks = nn.ModuleDict(dict(model.named_children()))
    if precision == "bf16":
        from ulzoo.training.parallelize import trainable_networks  # imports FSDP, which takes seconds

        if effective_precision(precision, model.device) != "bf16":
            raise ValueError(f"this {model.device.type} does not support bfloat16; use --precision fp32")
        for network in trainable_networks(networks):
            network.register_forward_pre_hook(_enter_bf16)
            network.register_forward_hook(_exit_bf16, always_call=True)
    if compile:
        from ulzoo.training.compilation import compile_blocks

        compile_blocks(networks)
    return model


class _Running(threading.local):
    """The autocast contexts of the forward passes that are running in this thread, innermost last."""

    def __init__(self) -> None:
        self.contexts: list[torch.autocast] = []


_running = _Running()


def _enter_bf16(network: nn.Module, inputs: Any) -> None:
    context = torch.autocast(next(network.parameters()).device.type, torch.bfloat16)
    context.__enter__()
    _running.contexts.append(context)


def _exit_bf16(network: nn.Module, inputs: Any, output: Any) -> None:
    _running.contexts.pop().__exit__(None, None, None)
