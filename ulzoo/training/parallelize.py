"""A model on many processes: whole copies that average their gradients (DDP), or each a part of every tensor (FSDP2).

With FSDP every block is sharded by itself, so that a process holds one whole block at a time.
"""

import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ulzoo.model.denoisers import Conditional
from ulzoo.nn.convolution import ResBlock
from ulzoo.nn.transformer import Block
from ulzoo.runtime.processes import ProcessGroup

BLOCKS = (Block, ResBlock)


def replicated(loss: nn.Module, processes: ProcessGroup) -> nn.Module:
    """The module, whose backward pass on many processes averages the gradients of all."""
    if processes.world_size == 1:
        return loss
    return DistributedDataParallel(loss, broadcast_buffers=False, gradient_as_bucket_view=True)


def synchronised(loss: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Where a batch comes in parts, gradients are averaged with the last one."""
    return nullcontext() if last or not isinstance(loss, DistributedDataParallel) else loss.no_sync()


def shard(networks: nn.ModuleDict, processes: ProcessGroup, device: torch.device, bf16: bool) -> None:
    """Make every parameter of the networks a DTensor of which this process holds its part.

    Args:
        bf16: gather parameters in bfloat16; gradients are averaged in float32 all the same.
    """
    mesh = init_device_mesh(device.type, (processes.world_size,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    keys = {"mesh": mesh, "mp_policy": policy} if bf16 else {"mesh": mesh}
    for network in called(networks):
        for module in network.modules():
            if isinstance(module, BLOCKS):
                fully_shard(module, **keys)
        fully_shard(network, **keys)


def checkpoint_activations(networks: nn.ModuleDict) -> None:
    """Keep of every block its input alone, and compute it again in the backward pass."""
    for network in called(networks):
        apply_activation_checkpointing(
            network, checkpoint_wrapper_fn=checkpoint_wrapper, check_fn=lambda module: isinstance(module, BLOCKS)
        )


def compile_blocks(networks: nn.ModuleDict) -> None:
    """Compile block by block: blocks of equal make share what was compiled, which takes seconds, not minutes.

    A network without blocks of ours is compiled as a whole.

    Raises:
        ValueError: they are on the CPU, for which there is no C++ compiler.
    """
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if next(networks.parameters()).device.type == "cpu" and not shutil.which(compiler):
        raise ValueError(
            f"compile: for a CPU it takes a C++ compiler, and {compiler} is not there: install it, or set CXX"
        )
    torch._dynamo.config.recompile_limit = 64  # of one class; networks differ in width, heads and conditioning
    for network in called(networks):
        blocks: list[nn.Module] = [module for module in network.modules() if isinstance(module, BLOCKS)]
        for module in blocks or [network]:
            module.compile()


def called(networks: nn.ModuleDict) -> Iterable[nn.Module]:
    """The modules whose forward pass is run, of those with parameters."""
    found = (part.network if isinstance(part, Conditional) else part for part in networks.values())
    return [network for network in found if any(True for _ in network.parameters())]


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be in parts, whole; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
