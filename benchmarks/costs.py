"""How the time per image grows with resolution, latent channels, tokens and depth, compared with its FLOPs.

    python -m benchmarks costs [--device D] [--threads N] [--rounds 5] [--scale 1] [--precision bf16] [--json]
                               [--out benchmarks/results]

Forward and backward, in bf16 where the device has it. Resolution and latent channels: stage 1 with the networks of
emoji64_small; tokens and depth: its prior. The points of an axis take turns, in batches of `--scale` times 256² pixels,
4096 tokens, or, along depth, 16 examples of 64 tokens. Lines through the logarithms of time and of FLOPs over those of
the axis give two exponents. Writes costs.json and costs.png. Exit status 1 if the exponent of time exceeds
that of FLOPs by more than 0.1.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Spread, by_turns, parser, prepare, publish
from benchmarks.pictures import save_figure
from benchmarks.rivals import forward_flops
from ulzoo.model.losses import StageLoss
from ulzoo.nn import DenoiserInputs, ViT
from ulzoo.registry import Spec, load_spec, spec_from_dict
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.summary import summarize
from ulzoo.runtime.devices import autocast, has_bf16

Point = tuple[float, int, Callable[[], None]]  # GFLOPs per example, examples per call, the call
EXCESS = 0.1


def stage_1(resolution: int, channels: int, scale: int, precision: str, device: torch.device) -> Point:
    """A step of stage 1 with emoji64_small's networks, without the optimizer."""
    spec = with_resolution(load_spec("emoji64_small", [f"latent.channels={channels}"]), resolution)
    flops = summarize(spec).training_flops("latents") / 1e9
    batch = scale * 256**2 // resolution**2
    model = compile_model(spec, device)
    model.prepare("latents")
    x = torch.rand(batch, *model.contract.shape, device=device) * 2 - 1
    stage_loss = StageLoss(model, "latents")

    def run() -> None:
        model.zero_grad()
        with autocast(precision, device):
            loss = stage_loss(x)["loss"]
        loss.backward()

    return flops, batch, run


def with_resolution(spec: Spec, resolution: int) -> Spec:
    """The spec with images of another resolution, which are not read."""
    data = {"kind": "image_folder", "root": "none", "resolution": resolution, "num_classes": 7, "verify": False}
    return spec_from_dict({**spec.to_dict(), "data": data})


def vit(side: int, depth: int, batch: int, precision: str, device: torch.device) -> Point:
    """emoji64_small's prior on a grid of side × side tokens."""
    with device:
        network = ViT(DenoiserInputs((side, side), 16), width=256, depth=depth, heads=4).train()
        x, logsnr = torch.randn(1, 16, side, side), torch.zeros(1)
    forward = forward_flops(network, x, logsnr) / 1e9
    x, logsnr = x.expand(batch, -1, -1, -1), logsnr.expand(batch)

    def run() -> None:
        network.zero_grad()
        with autocast(precision, device):
            loss = network(x, logsnr).square().mean()
        loss.backward()

    return 3 * forward, batch, run


AXES: dict[str, tuple[tuple[int, ...], Callable[..., Point]]] = {
    "resolution": ((32, 64, 128, 256), lambda value, scale, *on: stage_1(value, 16, scale, *on)),
    "latent channels": ((4, 8, 16, 32, 64), lambda value, scale, *on: stage_1(64, value, scale, *on)),
    "tokens": ((64, 256, 1024, 4096), lambda value, scale, *on: vit(isqrt(value), 6, 4096 * scale // value, *on)),
    "depth": ((2, 4, 8, 16, 32), lambda value, scale, *on: vit(8, value, 16 * scale, *on)),
}


def slope(x: Iterable[float], y: Iterable[float]) -> float:
    """Slope of the straight line through the logarithms."""
    return float(np.polyfit(np.log(list(x)), np.log(list(y)), 1)[0])


def measure(axis: str, device: torch.device, options: Namespace) -> dict[str, Any]:
    """Time and FLOPs per example along an axis, and the exponents of both."""
    values, make = AXES[axis]
    points = {str(value): make(value, options.scale, options.precision, device) for value in values}
    seconds = by_turns({name: run for name, (_, _, run) in points.items()}, device, options.rounds)
    rows = [
        {
            axis: value,
            "gflops": flops,
            "examples_a_call": examples,
            "seconds": Spread.of([s / examples for s in seconds[str(value)]]),
        }
        for value, (flops, examples, _) in zip(values, points.values(), strict=True)
    ]
    of_time = slope(values, [row["seconds"].median for row in rows])
    of_flops = slope(values, [row["gflops"] for row in rows])
    print(f"{axis:<16} time grows as its power {of_time:.2f}, FLOPs as {of_flops:.2f}", flush=True)
    return {"axis": axis, "exponent_of_time": of_time, "exponent_of_flops": of_flops, "rows": rows}


def plot(results: list[dict[str, Any]], where: str, path: Path) -> None:
    """Seconds per example along every axis, with quartiles, and FLOPs scaled to the same first point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(3.4 * len(results), 3.2), layout="constrained")
    for axes, result in zip(panels, results, strict=True):
        axis, rows = result["axis"], result["rows"]
        values, spreads = [row[axis] for row in rows], [row["seconds"] for row in rows]
        seconds = np.array([spread.median for spread in spreads])
        errors = [seconds - [spread.low for spread in spreads], [spread.high for spread in spreads] - seconds]
        flops = np.array([row["gflops"] for row in rows])
        axes.errorbar(
            values, seconds, np.abs(errors), fmt="o-", capsize=3, label=f"time, power {result['exponent_of_time']:.2f}"
        )
        axes.plot(values, flops * seconds[0] / flops[0], "--", label=f"FLOPs, power {result['exponent_of_flops']:.2f}")
        axes.set(xlabel=axis, xscale="log", yscale="log", xticks=values, xticklabels=[str(value) for value in values])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        if max(seconds) < 3 * min(seconds):  # keeps the noise of a flat line from filling the panel
            axes.set_ylim(min(seconds) / 3, max(seconds) * 3)
    panels[0].set_ylabel("seconds per example")
    figure.suptitle(f"forward and backward on {where}", fontsize=10)
    save_figure(figure, path.with_suffix(".png"))


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--scale", type=int, default=1, help="factor of the batch sizes; 64 for a large GPU")
    arguments.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    arguments.set_defaults(rounds=5)
    options = arguments.parse_args()
    device = prepare(options)
    options.precision = options.precision if has_bf16(device) else "fp32"
    results = [measure(axis, device, options) for axis in AXES]
    name = "costs" if options.precision == "bf16" else "costs_fp32"
    content = {"precision": options.precision, "axes": results}
    plot(results, f"{device.type}, {options.precision}", publish(name, content, device, options.out))
    faster = [row["axis"] for row in results if row["exponent_of_time"] > row["exponent_of_flops"] + EXCESS]
    print(f"time grows faster than FLOPs: {', '.join(faster)}" if faster else "time never grows faster than FLOPs")
    return int(bool(faster))


if __name__ == "__main__":
    sys.exit(main())
