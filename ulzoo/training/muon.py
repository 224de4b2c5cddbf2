"""Muon: matrices of equal shape are orthogonalised together, and gathered once where FSDP has them in parts."""

from collections import defaultdict
from typing import Any

import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.adamw import adamw

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
