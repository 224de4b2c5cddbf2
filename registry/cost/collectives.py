"""What the processes of a training send each other in a step; the norm of the gradients, one number, is not counted."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from ulzoo.training.matrices import stack_matrices
from ulzoo.training.optimizers import parameter_groups
from ulzoo.training.parallelize import largest_shard, sharded_blocks, trainable_networks

GRADIENT_BYTES = 4
BUCKET_BYTES = 25 * 2**20  # of DDP's gradients, but for the first bucket, which is smaller


@dataclass(frozen=True)
class Collectives:
    """Calls of a process in a step, and the bytes that it sends by rings, where each chunk passes n - 1 links.

    Attributes:
        gathers: calls that gather the weights of a unit of FSDP, or momenta of Muon.
        reductions: calls that average gradients: of a unit of FSDP, or of a bucket of DDP.
        bytes_sent: by all of them.
    """

    gathers: int
    reductions: int
    bytes_sent: float


NO_COLLECTIVES = Collectives(0, 0, 0.0)


def replicated_collectives(networks: nn.ModuleDict, processes: int) -> Collectives:
    """Of DDP, which sums gradients in fp32 and gathers the sums: twice their bytes."""
    parameters: list[Tensor] = [parameter for parameter in networks.parameters() if parameter.requires_grad]
    limits = [dist._DEFAULT_FIRST_BUCKET_BYTES, BUCKET_BYTES]
    buckets, _ = dist._compute_bucket_assignment_by_size(parameters[::-1], limits)
    sent = 2 * GRADIENT_BYTES * sum(parameter.numel() for parameter in parameters)
    return Collectives(0, len(buckets), sent * (processes - 1) / processes)


def sharded_collectives(networks: nn.ModuleDict, processes: int, *, bf16: bool, parts: int = 1) -> Collectives:
    """Of FSDP2: every block is gathered for the forward and again for the backward pass, and its gradients are reduced.

    The weights outside blocks stay gathered in between. Tensors are padded to equal shards of their first dimension.
    The few weights of a gain (`RateGain`) are gathered at each of its calls, which are counted as one.

    Args:
        bf16: weights are gathered in bfloat16, not in fp32.
        parts: number of parts of a batch that a process computes one after another.
    """
    gathers = reductions = 0
    sent = 0.0
    for network in trainable_networks(networks):
        blocks = [list(block.parameters()) for block in sharded_blocks(network)]
        inside = {id(parameter) for block in blocks for parameter in block}
        others = [parameter for parameter in network.parameters() if id(parameter) not in inside]
        for unit, times in [*((block, 2) for block in blocks), (others, 1)]:
            gathers, reductions = gathers + times, reductions + 1
            sent += _padded(unit, processes) * (times * (2 if bf16 else 4) + GRADIENT_BYTES)
    return Collectives(parts * gathers, parts * reductions, parts * sent * (processes - 1) / processes)


def muon_collectives(networks: nn.ModuleDict, processes: int, *, bf16: bool) -> Collectives:
    """Of Muon on weights that FSDP2 shards: the momenta of a stack of matrices are gathered at once.

    Args:
        bf16: the device multiplies matrices in bfloat16, in which momenta are then gathered.
    """
    groups = parameter_groups(networks, weight_decay=0.0)
    stacks = [stack for group in groups for stack in stack_matrices(group["params"])]
    sent = sum(_padded(stack, processes) for stack in stacks) * (2 if bf16 else 4)
    return Collectives(len(stacks), 0, sent * (processes - 1) / processes)


def _padded(parameters: Iterable[Tensor], processes: int) -> float:
    """The number of values in the shards of all processes, which are padded to the size of the largest."""
    return processes * sum(largest_shard(parameter.shape[0], parameter.numel(), processes) for parameter in parameters)
