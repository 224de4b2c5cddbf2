"""The most FLOPs a second that this device does: products of large square matrices, in bf16 and fp32.

    python -m benchmarks peak [--device D] [--threads N] [--sides 4096,8192] [--rounds 9] [--out DIR] [--json]

The best side counts, by the median of its rounds. Beside it stands `matmul_peak`, which model FLOPs utilisation is
over: the best of products of one side within a fifth of a second.
"""

import sys
from typing import Any

import torch

from benchmarks.measuring import Spread, by_turns, parser, prepare, publish
from ulzoo.training.peak import matmul_peak

SIDES = {"cuda": (4096, 8192, 16384), "cpu": (1024, 2048)}


def peak(
    device: torch.device, dtype: torch.dtype, sides: tuple[int, ...] = (), rounds: int = 9
) -> tuple[float, dict[int, Spread]]:
    """TFLOPs a second of the best side, and those of all by side."""
    found = {}
    for side in sides or SIDES.get(device.type, SIDES["cpu"]):
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        out = torch.empty(side, side, device=device, dtype=dtype)
        seconds = by_turns({"product": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}, device, rounds, warm=3)
        found[side] = Spread.of([2 * side**3 / s / 1e12 for s in seconds["product"]])
    return max(spread.median for spread in found.values()), found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sides", default="")
    options = arguments.parse_args()
    device = prepare(options)
    sides = tuple(int(side) for side in options.sides.split(",") if side)
    content: dict[str, Any] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        best, by_side = peak(device, dtype, sides, options.rounds)
        quick = matmul_peak(device, dtype)
        content[name] = {"teraflops": best, "matmul_peak": quick / 1e12, "by_side": by_side}
        print(f"{name}: {best:.3g} TFLOP/s, {quick / 1e12:.3g} by matmul_peak")
    publish("peak", content, device, options.out)


if __name__ == "__main__":
    sys.exit(main())
