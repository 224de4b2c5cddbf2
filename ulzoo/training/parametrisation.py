"""µP, the maximal update parametrisation: the learning rate of a narrow model is that of wider ones (arXiv 2203.03466).

The narrow model is called the proxy, as in the paper. It has the layers of the model, so the shapes of a tensor in both
say which of its dimensions grow. The rules are those of the paper's Table 3, which changes learning rates and initial
weights, but no forward pass:

- A kernel whose fan-in is r times the proxy's has 1/r of the learning rate. That is a hidden or an output layer.
- An output layer, whose fan-out does not grow, also starts with weights smaller by 1/√r. Most start at zero anyway.
- Input layers, biases, gates' offsets, embeddings and positions are as in the proxy.
- The product of queries and keys is divided by the width of a head rather than its root: the learned temperature and
  its learning rate are smaller by the root of its growth. Heads of the same width change nothing.

Hidden layers start with the variance 1/fan-in in PyTorch already. Weight decay is as strong as in the proxy: the factor
of a kernel's learning rate is taken out of it.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from ulzoo.model.contract import Stage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn.transformer import Attention, CrossAttention
from ulzoo.training.matrices import KERNELS, is_matrix, rows_and_columns


def learning_rate_scales(networks: nn.Module, proxy: nn.Module, optimizer: str) -> list[float]:
    """The factor of each parameter's learning rate, in the order of `networks.parameters()`.

    Args:
        optimizer: one of `ulzoo.training.config.MUP_OPTIMIZERS`.

    Raises:
        ValueError: the proxy has other layers.
    """
    scales: dict[int, float] = {}
    for module, narrow in module_pairs(networks, proxy):
        if isinstance(module, KERNELS):
            weight, narrow_weight = module.weight, cast(Tensor, narrow.weight)
            orthogonalised = optimizer == "muon" and is_matrix(weight)
            scale = orthogonal_scale if orthogonalised else elementwise_scale
            scales[id(weight)] = scale(weight.shape, narrow_weight.shape)
        elif isinstance(module, Attention | CrossAttention):
            scales[id(module.temperature)] = temperature_scale(module, narrow)
    return [scales.get(id(parameter), 1.0) for parameter in networks.parameters()]


@torch.no_grad()
def scale_initial_weights(networks: nn.Module, proxy: nn.Module) -> None:
    """Scale fresh weights of output layers and temperatures of attention.

    Raises:
        ValueError: the proxy has other layers.
    """
    for module, narrow in module_pairs(networks, proxy):
        if isinstance(module, KERNELS):
            fan_out, fan_in = growth(module.weight.shape, cast(Tensor, narrow.weight).shape)
            if fan_out == 1:
                module.weight.mul_(fan_in**-0.5)
        elif isinstance(module, Attention | CrossAttention):
            module.temperature.mul_(temperature_scale(module, narrow))


def trained_networks(model: UnifiedLatents, stage: Stage) -> nn.ModuleDict:
    """The networks that a stage trains, by name."""
    return nn.ModuleDict({name: getattr(model, name) for name in model.contract.trained_networks(stage)})


def elementwise_scale(shape: torch.Size, narrow: torch.Size) -> float:
    """For optimizers whose updates have entries of the size of the learning rate, such as Adam's."""
    _, fan_in = growth(shape, narrow)
    return 1 / fan_in


def orthogonal_scale(shape: torch.Size, narrow: torch.Size) -> float:
    """For Muon, whose updates have singular values of 0.2 √max(rows, columns) times the learning rate.

    A change of features that does not depend on the width needs singular values that grow as √(fan_out / fan_in)
    (arXiv 2310.17813): in a hidden layer 1/√r, in an output layer 1/r.
    """
    fan_out, fan_in = growth(shape, narrow)
    longer_side = max(rows_and_columns(shape)) / max(rows_and_columns(narrow))
    return math.sqrt(fan_out / fan_in / longer_side)


def temperature_scale(attention: Attention | CrossAttention, narrow: nn.Module) -> float:
    """Logits q·k/√d of heads of width d become proportional to q·k/d."""
    narrow_attention = cast(Attention | CrossAttention, narrow)
    return math.sqrt(head_width(narrow_attention) / head_width(attention))


def head_width(attention: Attention | CrossAttention) -> int:
    return int(attention.norm.normalized_shape[0])


def growth(shape: torch.Size, narrow: torch.Size) -> tuple[float, float]:
    """Fan-out and fan-in of a kernel (out, in, …) over those in the proxy."""
    return shape[0] / narrow[0], shape[1] / narrow[1]


def module_pairs(networks: nn.Module, proxy: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Every module with its counterpart in the proxy."""
    wide, narrow = dict(networks.named_modules()), dict(proxy.named_modules())
    differing = [name for name in {**wide, **narrow} if _parameters(wide.get(name)) != _parameters(narrow.get(name))]
    if differing:
        raise ValueError(f"proxy differs in more than widths: see the parameters of {differing[0]}")
    return [(module, narrow[name]) for name, module in wide.items()]


def _parameters(module: nn.Module | None) -> dict[str, int] | None:
    """Name -> number of dimensions."""
    if module is None:
        return None
    return {name: parameter.ndim for name, parameter in module.named_parameters(recurse=False)}
