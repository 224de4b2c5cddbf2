"""The peak speed of this device: FLOPs per second of products of large square matrices, in bf16 and fp32.

    python -m benchmarks peak [--device D] [--threads N] [--sides 4096,8192] [--rounds 9] [--out DIR] [--json]

Measured by `matmul_speed`, whose maximum over the sides is the denominator of model FLOPs utilisation.
"""

import sys

import torch

from benchmarks.measuring import Spread, parser, prepare, publish
from ulzoo.training.profiling import MATRIX_SIDES, matmul_speed


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sides", default="")
    options = arguments.parse_args()
    device = prepare(options)
    sides = [int(side) for side in options.sides.split(",") if side] or MATRIX_SIDES[device.type]
    content = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        rounds = [[matmul_speed(device, dtype, side) / 1e12 for side in sides] for _ in range(options.rounds)]
        by_side = {side: Spread.of(list(values)) for side, values in zip(sides, zip(*rounds, strict=True), strict=True)}
        best = max(spread.median for spread in by_side.values())
        content[name] = {"teraflops": best, "by_side": by_side}
        print(f"{name}: {best:.3g} TFLOP/s")
    publish("peak", content, device, options.out)


if __name__ == "__main__":
    sys.exit(main())
