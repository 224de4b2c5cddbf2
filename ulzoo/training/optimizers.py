"""Optimizer, learning rate and moving average of one stage, and an optimizer's state as tensors and JSON."""

import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ulzoo.training.config import Stage
from ulzoo.training.muon import Muon


def build_optimizer(networks: nn.Module, config: Stage) -> torch.optim.Optimizer:
    """Any of timm's optimizers by name; weight decay on matrices only; PyTorch's AdamW in its fused form; our own Muon.

    Raises:
        ValueError: this optimizer cannot be had here, or needs what the trainer does not give it.
    """
    info = get_optimizer_info(config.optimizer)
    if info.second_order:
        raise ValueError(f"{config.optimizer} needs second derivatives, which this trainer does not compute")
    options: dict[str, Any] = {"fused": True} if config.optimizer == "adamw" else {}
    if info.num_betas == 2:
        options["betas"] = config.betas
    kernels = {id(m.weight): m.weight for m in networks.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d)}
    groups = [
        {"params": [p for p in networks.parameters() if id(p) not in kernels], "weight_decay": 0.0},
        {"params": list(kernels.values()), "weight_decay": config.weight_decay},
    ]
    if config.optimizer == "muon":
        return Muon(groups, lr=config.lr, betas=config.betas)
    try:
        return create_optimizer_v2(groups, opt=config.optimizer, lr=config.lr, **options)
    except (AssertionError, ImportError, RuntimeError) as error:  # needs CUDA, or a package
        raise ValueError(f"{config.optimizer} cannot be used here: {error}") from None


def learning_rate(step: int, config: Stage) -> float:
    """Of update number `step` = 0, 1, …: a line up to `lr` in the last warm-up step, then decay to 0 at the end."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    match config.decay:
        case "cosine":
            return config.lr * (1 + math.cos(math.pi * done)) / 2
        case "linear":
            return config.lr * (1 - done)
        case "constant":
            return config.lr


def build_ema(networks: nn.Module, config: Stage) -> ModelEmaV3:
    """timm's moving average, whose decay rises with the step to `config.ema`, so short runs average over less."""
    return ModelEmaV3(networks, decay=config.ema, use_warmup=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """The optimizer's `state_dict` as tensors, by their path in it, and as JSON with the paths in their places."""
    tensors: dict[str, Tensor] = {}

    def pack(value: Any, path: str) -> Any:
        match value:
            case Tensor():
                tensors[path] = value
                return {"tensor": path}
            case dict():
                return {"dict": [[key, pack(item, f"{path}.{key}")] for key, item in value.items()]}
            case list() | tuple():
                return {type(value).__name__: [pack(item, f"{path}.{i}") for i, item in enumerate(value)]}
            case torch.dtype():
                return {"dtype": str(value).removeprefix("torch.")}
        return value

    whole = optimizer.state_dict()
    return tensors, {key: pack(value, key) for key, value in whole.items()}


def blank_state(
    optimizer: torch.optim.Optimizer, sizes: dict[str, tuple[torch.Size, torch.dtype]]
) -> dict[str, Tensor]:
    """Tensors to read an optimizer's state into, by path; what goes with a parameter is in parts as that is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    blank: dict[str, Tensor] = {}
    for path, (size, dtype) in sizes.items():
        kind, number, *_ = path.split(".")
        of = [parameters[int(number)]] if kind == "state" and parameters[int(number)].shape == size else []
        blank[path] = torch.empty_like(of[0], dtype=dtype) if of else torch.empty(size, dtype=dtype)
    return blank


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], packed: dict[str, Any]) -> None:
    """Give a fresh optimizer of the same parameters the state that `optimizer_state` took."""

    def unpack(value: Any) -> Any:
        match value:
            case {"tensor": path}:
                return tensors[path]
            case {"dict": items}:
                return {key: unpack(item) for key, item in items}
            case {"list": items}:
                return [unpack(item) for item in items]
            case {"tuple": items}:
                return tuple(unpack(item) for item in items)
            case {"dtype": name}:
                return getattr(torch, name)
        return value

    optimizer.load_state_dict({key: unpack(value) for key, value in packed.items()})
