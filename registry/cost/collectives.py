"""What the processes of a training send each other in the forward and backward passes of a step."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from ulzoo.training.parallelize import largest_shard, sharded_blocks, trainable_networks

GRADIENT_BYTES = 4
BUCKET_BYTES = 25 * 2**20  # of DDP's gradients, but for the first bucket, which is smaller


@dataclass(frozen=True)
class Collectives:
    """Calls of a process in a step, and the bytes that it sends by rings, where each chunk passes n - 1 links.

    Attributes:
        gathers: calls that gather the weights of a unit of FSDP.
        reductions: calls that average gradients: of a unit of FSDP, or of a bucket of DDP.
        bytes_sent: by all of them.
    """

    gathers: int
    reductions: int
    bytes_sent: float


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
    gathers = reductions = sent = 0
    for network in trainable_networks(networks):
        blocks = [list(block.parameters()) for block in sharded_blocks(network)]
        inside = {id(parameter) for block in blocks for parameter in block}
        others = [parameter for parameter in network.parameters() if id(parameter) not in inside]
        for unit, times in [*((block, 2) for block in blocks), (others, 1)]:
            shard = sum(largest_shard(parameter.shape[0], parameter.numel(), processes) for parameter in unit)
            gathers, reductions = gathers + times, reductions + 1
            sent += processes * shard * (times * (2 if bf16 else 4) + GRADIENT_BYTES)
    return Collectives(parts * gathers, parts * reductions, parts * sent * (processes - 1) / processes)
