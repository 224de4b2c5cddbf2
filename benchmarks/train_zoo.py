"""Train larger models of the zoo, each within a time limit: for a GPU that is at hand for minutes only.

    python -m benchmarks train_zoo [--models emoji64_small,atari128_small] [--minutes 6] [--device cuda]
                                   [--set KEY=VALUE]... [--out runs/zoo]

A few steps of each stage on noise tell how many fit: half of the time is for stage 1, a third for the base, the rest
for starting, evaluation and export. Warm-ups and averages are shortened with the steps. An interrupted run continues by
`ulzoo train MODEL --resume` with the keys that were printed; `python -m benchmarks release` makes a release of it.
"""

import sys
from pathlib import Path

import torch

from benchmarks.gpu import STAGES, fitting
from benchmarks.measuring import parser, prepare
from ulzoo.model.contract import Stage
from ulzoo.registry import Spec, load_spec
from ulzoo.registry.runs.train import RunOptions, train

SHARES: dict[Stage, float] = {"latents": 1 / 2, "base": 1 / 3}
MEASURED_STEPS = 20


def shortened(spec: Spec, stage: Stage, seconds: float, device: torch.device) -> list[str]:
    """The overrides of a stage with as many steps as fit into `seconds`."""
    config = getattr(spec.train, stage)
    row = fitting(spec, stage, device, config.batch_size, steps=MEASURED_STEPS, compiled=config.compile)
    steps = max(int(seconds * row["images_per_second"] / row["batch"]), 1)
    changed = {
        "batch_size": row["batch"],
        "steps": steps,
        "warmup_steps": min(config.warmup_steps, steps // 10),
        "ema": max(0.9, min(config.ema, 1 - 10 / steps)),
        "checkpoint_every": max(steps // 4, 1),
        "log_every": max(steps // 20, 1),
    }
    if stage == "latents":
        changed["prior_warmup_steps"] = min(config.prior_warmup_steps, steps // 4)
    return [f"train.{stage}.{key}={value}" for key, value in changed.items()]


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--models", default="emoji64_small,atari128_small")
    arguments.add_argument("--minutes", type=float, default=6.0, help="for each model")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments.set_defaults(out=Path("runs/zoo"))
    options = arguments.parse_args()
    device = prepare(options)
    for name in options.models.split(","):
        spec = load_spec(name, options.set)
        changes = [
            change
            for stage in STAGES
            for change in shortened(spec, stage, 60 * options.minutes * SHARES[stage], device)
        ]
        print(f"{name}:", *(f"--set {change}" for change in changes), flush=True)
        longest = load_spec(name, [*options.set, *changes])
        run = train(longest, options.out / spec.name, RunOptions(device=device))
        print(f"{run.folder}: {run.results['figures']['psnr_db']:.2f} dB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
