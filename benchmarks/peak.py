"""The most FLOPs a second that this device does: products of large square matrices, in bf16 and fp32.

    python -m benchmarks peak [--device D] [--threads N] [--sides 4096,8192] [--rounds 9] [--out DIR] [--json]

Model FLOPs utilisation is over this figure, not over a data sheet's. The best side counts, by the median of its rounds.
"""

import sys
from typing import Any

import torch

from benchmarks.measuring import Spread, by_turns, parser, prepare, publish

SIDES = {"cuda": (4096, 8192, 16384), "cpu": (1024, 2048)}


def peak(
    device: torch.device, dtype: torch.dtype, sides: tuple[int, ...] = (), rounds: int = 9
) -> tuple[float, dict[int, Spread]]:
    """FLOPs a second of the best side, and those of all by side."""
    found = {}
    for side in sides or SIDES.get(device.type, SIDES["cpu"]):
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        out = torch.empty(side, side, device=device, dtype=dtype)
        seconds = by_turns({"product": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}, device, rounds, warm=3)
        found[side] = Spread.of([2 * side**3 / s for s in seconds["product"]])
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
        content[name] = {"teraflops": best / 1e12, "by_side": by_side}
        print(f"{name}: {best / 1e12:.3g} TFLOP/s")
    publish("peak", content, device, options.out)


if __name__ == "__main__":
    sys.exit(main())
