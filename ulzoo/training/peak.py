"""What a device can do at most, measured: the measure of model FLOPs utilisation, in place of a data sheet's figure."""

import time

import torch

SIDE = {"cuda": 8192, "cpu": 1024}
SECONDS = 0.2


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a product of large square matrices, the best of those that fit in a fifth of a second."""
    side = SIDE.get(device.type, 2048)
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    out = torch.mm(a, b)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        best = min(best, _seconds(a, b, out))
    return 2 * side**3 / best


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    _wait(a.device)
    started = time.perf_counter()
    torch.mm(a, b, out=out)
    _wait(a.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
