"""Optimizer, learning-rate schedule and moving average of one stage, all of them timm's."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ulzoo.training.config import Stage


def build_optimizer(networks: nn.Module, config: Stage) -> torch.optim.Optimizer:
    """Any of timm's optimizers by name; weight decay on matrices only; PyTorch's AdamW in its fused form."""
    options: dict[str, Any] = {"fused": True} if config.optimizer == "adamw" else {}
    return create_optimizer_v2(
        networks, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas, **options
    )


def build_scheduler(optimizer: torch.optim.Optimizer, config: Stage) -> Scheduler:
    """Linear warm-up, then decay to 0 by a cosine or a line, or none. `step_update(n)` is a pure function of n."""
    warmup: dict[str, Any] = {"warmup_t": config.warmup_steps, "warmup_prefix": True, "t_in_epochs": False}
    steps = max(config.steps - config.warmup_steps, 1)
    if config.decay == "cosine":
        return CosineLRScheduler(optimizer, t_initial=steps, **warmup)
    if config.decay == "linear":
        return PolyLRScheduler(optimizer, t_initial=steps, power=1.0, **warmup)
    return StepLRScheduler(optimizer, decay_t=2 * config.steps, decay_rate=1.0, **warmup)


def build_ema(networks: nn.Module, config: Stage) -> ModelEmaV3:
    """Moving average whose decay rises with the step to `config.ema`, so short runs average over less."""
    return ModelEmaV3(networks, decay=config.ema, use_warmup=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The optimizer's state as tensors named "{parameter index}.{state name}", and its groups' settings as JSON."""
    whole = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        for index, entries in whole["state"].items()
        for name, value in entries.items()
        if value is not None
    }
    groups = [
        {name: value for name, value in group.items() if isinstance(value, bool | int | float | str)}
        for group in whole["param_groups"]
    ]
    return tensors, groups


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Give a fresh optimizer of the same parameters the state that `optimizer_state` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    fresh = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(
        {"state": state, "param_groups": [{**new, **old} for new, old in zip(fresh, groups, strict=True)]}
    )
