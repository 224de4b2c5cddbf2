"""What a device can do at most, measured: the measure of model FLOPs utilisation, in place of a data sheet's figure."""

import time

import torch

SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}
SECONDS = 0.1


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of products of large square matrices: the best of all, of the best side."""
    return max(product_speed(device, dtype, side) for side in SIDES.get(device.type, SIDES["cpu"]))


def product_speed(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOPs per second of the quickest of the products of this side that fit in a tenth of a second.

    The quickest one, since what else a machine does only slows them; the clock counts.
    """
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
