"""Optimizer, learning rate and moving average of one stage, and an optimizer's state as tensors and JSON."""

import math
from collections import defaultdict
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.adamw import adamw

from ulzoo.training.config import StageConfig


def build_optimizer(networks: nn.Module, config: StageConfig) -> torch.optim.Optimizer:
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


def learning_rate(step: int, config: StageConfig) -> float:
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


def build_ema(networks: nn.Module, config: StageConfig) -> ModelEmaV3:
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


NEWTON_SCHULZ = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
"""a, b, c of X ← aX + b(XXᵀ)X + c(XXᵀ)²X, a row for each step: "quintic" in modded-nanogpt and timm."""

AT_ONCE = 1 << 24
"""Values that are orthogonalised together at most: more are no quicker, and take memory."""


class Muon(torch.optim.Optimizer):
    """timm's `muon` (Jordan 2024) with its defaults: steps are as long as AdamW's (Liu et al. 2025, arXiv:2502.16982).

    A parameter that is no matrix, such as a bias, or is a thin one, is updated by AdamW. A convolution's kernel is a
    matrix of a row for each output.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-7,
    ) -> None:
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(params, {**options, "fused": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [parameter for parameter in trained if is_matrix(parameter)]
            if matrices:
                self._orthogonal(matrices, group)
            if len(matrices) < len(trained):
                self._adamw([parameter for parameter in trained if not is_matrix(parameter)], group)

    def _orthogonal(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in matrices:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in matrices]
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(momenta, gradients(matrices), 1 - group["momentum"])
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, momentum in zip(matrices, momenta, strict=True):
            alike[parameter.shape].append((parameter, momentum))
        for shape, pairs in alike.items():
            length = group["lr"] * get_lr_scale(torch.Size(rows_and_columns(shape)))
            most = max(AT_ONCE // shape.numel(), 1)
            for start in range(0, len(pairs), most):
                parameters, some = zip(*pairs[start : start + most], strict=True)
                updates = orthogonal(torch.stack([momentum.bfloat16() for momentum in some]), group["eps"])
                torch._foreach_add_(parameters, updates.to(parameters[0].dtype).unbind(), alpha=-length)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=torch.zeros((), device=parameter.device),
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            gradients(parameters),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def is_matrix(parameter: Tensor) -> bool:
    """Whether it is updated as one: timm's rule, by which positions (1, n, d) and depthwise kernels are not."""
    if parameter.ndim < 2 or 1 in parameter.shape[:2]:
        return False
    small, large = sorted(rows_and_columns(parameter.shape))
    return small >= 4 and large <= 128 * small


def rows_and_columns(shape: torch.Size) -> tuple[int, int]:
    return shape[0], shape[1:].numel()


def orthogonal(momenta: Tensor, eps: float) -> Tensor:
    """Orthogonal factors of n matrices, (n, out, in, …), gathered at once where processes have parts of them."""
    if isinstance(momenta, DTensor):
        mesh = momenta.device_mesh
        whole = DTensor.from_local(orthogonal(momenta.full_tensor(), eps), mesh, [Replicate()] * mesh.ndim)
        return whole.redistribute(mesh, momenta.placements)
    factors = zeropower_via_newtonschulz(momenta.flatten(2), len(NEWTON_SCHULZ), NEWTON_SCHULZ, eps=eps)
    return factors.reshape(momenta.shape)
