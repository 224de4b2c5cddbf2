"""A model on many processes: replicas that average their gradients (DDP), or a shard of every tensor each (FSDP2).

FSDP shards block by block, so that a process gathers the parameters of one block at a time. The units of sharding,
activation checkpointing and compilation are the same: the blocks of the networks.
"""

import math

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

from ulzoo.model.denoisers import ConditionalNetwork
from ulzoo.nn.conditioning import RateGain
from ulzoo.nn.convolution import ResBlock
from ulzoo.nn.transformer import Block
from ulzoo.runtime.processes import ProcessGroup

BLOCKS = (Block, ResBlock)


def replicate(module: nn.Module, processes: ProcessGroup) -> nn.Module:
    """Wrap a module in DDP, whose backward pass averages gradients over the processes; a single process needs none."""
    if processes.world_size == 1:
        return module
    return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def shard(networks: nn.ModuleDict, processes: ProcessGroup, device: torch.device, bf16: bool) -> None:
    """Replace the parameters of the networks by DTensors, of which every process holds its shard.

    Args:
        bf16: gather parameters in bfloat16; gradients are still averaged in float32.
    """
    mesh = init_device_mesh(device.type, (processes.world_size,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    options = {"mesh": mesh, "mp_policy": policy} if bf16 else {"mesh": mesh}
    for network in trainable_networks(networks):
        for module in (*sharded_blocks(network), network):
            fully_shard(module, **options)


def sharded_blocks(network: nn.Module) -> list[nn.Module]:
    """The parts of a network whose parameters are gathered on their own; the network's own pass gathers the others."""
    # a gain is called outside its encoder's forward pass
    return [module for module in network.modules() if isinstance(module, (*BLOCKS, RateGain))]


def largest_shard(rows: int, values: int, shards: int) -> float:
    """The number of values in the first and largest shard of a tensor of so many rows and values.

    FSDP2 splits the first dimension as `torch.chunk` does: into slices of equal size, rounded up, so that later
    processes may have none.
    """
    return math.ceil(rows / shards) * values / rows


def checkpoint_activations(networks: nn.ModuleDict) -> None:
    """Store only the input of every block and recompute its activations in the backward pass."""
    for network in trainable_networks(networks):
        apply_activation_checkpointing(
            network, checkpoint_wrapper_fn=checkpoint_wrapper, check_fn=lambda module: isinstance(module, BLOCKS)
        )


def trainable_networks(networks: nn.ModuleDict) -> list[nn.Module]:
    """The modules with parameters whose forward pass is called; for a conditional denoiser, the network inside it."""
    modules = (part.network if isinstance(part, ConditionalNetwork) else part for part in networks.values())
    return [module for module in modules if next(module.parameters(), None) is not None]


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of a DTensor's shards, a collective operation; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
