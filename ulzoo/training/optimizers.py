"""Optimizer, learning rate and EMA of one stage; the optimizer's state as tensors and JSON; Muon."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.adamw import adamw

from ulzoo.runtime.devices import product_dtype
from ulzoo.training.config import StageConfig
from ulzoo.training.matrices import KERNELS, is_matrix, rows_and_columns, stack_matrices


def build_optimizer(
    networks: nn.Module, config: StageConfig, scales: Sequence[float] | None = None
) -> torch.optim.Optimizer:
    """One of timm's optimizers by name, with weight decay on kernels only; AdamW is fused, Muon is the one below.

    Args:
        scales: factor of the learning rate of each parameter, "lr_scale" of its group; 1 if None.

    Raises:
        ValueError: the optimizer needs second derivatives, or hardware or a package that is missing.
    """
    info = get_optimizer_info(config.optimizer)
    if info.second_order:
        raise ValueError(f"{config.optimizer} needs second derivatives, which this trainer does not compute")
    options: dict[str, Any] = {"fused": True} if config.optimizer == "adamw" else {}
    if info.num_betas == 2:
        options["betas"] = config.betas
    groups = parameter_groups(networks, config.weight_decay, scales)
    if config.optimizer == "muon":
        return Muon(groups, lr=config.lr, betas=config.betas)
    try:
        return create_optimizer_v2(groups, opt=config.optimizer, lr=config.lr, **options)
    except (AssertionError, ImportError, RuntimeError) as error:  # needs CUDA, or a package
        raise ValueError(f"{config.optimizer} cannot be used here: {error}") from None


def parameter_groups(
    networks: nn.Module, weight_decay: float, scales: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Parameters by weight decay and learning rate, first those without decay and a factor of 1.

    Weight decay is divided by the factor, since optimizers multiply it by the learning rate.
    """
    kernels = {id(module.weight) for module in networks.modules() if isinstance(module, KERNELS)}
    parameters = list(networks.parameters())
    members: dict[tuple[bool, float], list[Tensor]] = {(False, 1.0): [], (True, 1.0): []}
    for parameter, scale in zip(parameters, scales or [1.0] * len(parameters), strict=True):
        members.setdefault((id(parameter) in kernels, scale), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for (decays, scale), group in members.items():
        groups.append({"params": group, "weight_decay": weight_decay / scale if decays else 0.0})
        if scale != 1:
            groups[-1]["lr_scale"] = scale
    return groups


def learning_rate(step: int, config: StageConfig) -> float:
    """Learning rate of update `step` = 0, 1, …: linear warm-up to `lr` in the last warm-up step, then decay to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    match config.decay:
        case "cosine":
            return config.lr * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return config.lr * (1 - progress)
        case "constant":
            return config.lr


def build_ema(networks: nn.Module, config: StageConfig) -> ModelEmaV3:
    """timm's moving average of the weights, whose decay rises to `config.ema`, so that short runs average over less.

    Buffers, such as a schedule's density, are copied.
    """
    return ModelEmaV3(networks, decay=config.ema, use_warmup=True, exclude_buffers=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """Split an optimizer's `state_dict` into tensors by path, and JSON with the paths in the places of the tensors."""
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

    return tensors, {key: pack(value, key) for key, value in optimizer.state_dict().items()}


def empty_optimizer_state(
    optimizer: torch.optim.Optimizer, shapes: dict[str, tuple[torch.Size, torch.dtype]]
) -> dict[str, Tensor]:
    """Uninitialised tensors to read an optimizer's state into, by path; sharded like the parameter they belong to."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors: dict[str, Tensor] = {}
    for path, (shape, dtype) in shapes.items():
        kind, index, *_ = path.split(".")
        if kind == "state" and parameters[int(index)].shape == shape:
            tensors[path] = torch.empty_like(parameters[int(index)], dtype=dtype)
        else:
            tensors[path] = torch.empty(shape, dtype=dtype)
    return tensors


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], packed: dict[str, Any]) -> None:
    """Load what `optimizer_state` returned into a new optimizer of the same parameters."""

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
"""a, b, c of X ← aX + b(XXᵀ)X + c(XXᵀ)²X, one row per iteration: "quintic" in modded-nanogpt and timm."""


class Muon(torch.optim.Optimizer):
    """timm's `muon` (Jordan 2024) with its defaults, where matrices of the same shape are orthogonalised in one stack.

    Updates have the RMS norm of AdamW's (Liu et al. 2025, arXiv:2502.16982). Vectors, such as biases, and thin matrices
    are updated by AdamW. The kernel of a convolution is a matrix with one row per output channel. The products are in
    bfloat16, as timm's, where the device has it natively, else in float32.
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
        device = next((parameter.device for group in self.param_groups for parameter in group["params"]), None)
        self.dtype = product_dtype(device or torch.device("cpu"))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for matrices in stack_matrices(parameters):
                self._muon(matrices, group)
            if vectors := [parameter for parameter in parameters if not is_matrix(parameter)]:
                self._adamw(vectors, group)

    def _muon(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape."""
        for parameter in matrices:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in matrices]
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(momenta, gradients(matrices), 1 - group["momentum"])
        updates = orthogonalize(torch.stack([momentum.to(self.dtype) for momentum in momenta]), group["eps"])
        lr = group["lr"] * get_lr_scale(torch.Size(rows_and_columns(matrices[0].shape)))
        torch._foreach_add_(matrices, updates.to(matrices[0].dtype).unbind(), alpha=-lr)

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


def orthogonalize(momenta: Tensor, eps: float) -> Tensor:
    """The nearest orthogonal matrices to n matrices (n, out, in, …), whose shards are gathered in one operation."""
    if isinstance(momenta, DTensor):
        mesh = momenta.device_mesh
        replicated = DTensor.from_local(orthogonalize(momenta.full_tensor(), eps), mesh, [Replicate()] * mesh.ndim)
        return replicated.redistribute(mesh, momenta.placements)
    factors = zeropower_via_newtonschulz(
        momenta.flatten(2), len(NEWTON_SCHULZ), NEWTON_SCHULZ, eps=eps, dtype=momenta.dtype
    )
    return factors.reshape(momenta.shape)
