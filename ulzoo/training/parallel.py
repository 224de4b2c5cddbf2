"""A model on many processes: whole copies that average their gradients (DDP)."""

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ulzoo.training.processes import Processes


def replicated(loss: nn.Module, processes: Processes) -> nn.Module:
    """The module, whose backward pass on many processes averages the gradients of all."""
    if processes.count == 1:
        return loss
    return DistributedDataParallel(loss, broadcast_buffers=False, gradient_as_bucket_view=True)


def synchronised(loss: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Where a batch comes in parts, gradients are averaged with the last one."""
    return nullcontext() if last or not isinstance(loss, DistributedDataParallel) else loss.no_sync()
