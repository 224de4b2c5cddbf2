"""A training step in the spec's precision, compiled and eager, compared with eager fp32; and the overhead of `train`.

    python -m benchmarks step [--spec emoji32_tiny] [--stage latents] [--steps 60] [--compile] [--device D] [--json]

All sides are steps of the trainer with the same networks, optimizer and images: noise, forward, backward, clipping,
optimizer and moving average; bf16 only where the device has it. Bars: 0.6 of the fp32 step; a run takes at most 1.05
of the time of its steps, and waits for data less than 2 % of the time.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Spread, by_turns, parser, prepare, publish, ratio
from ulzoo.data import batches
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.runtime.devices import has_bf16
from ulzoo.training.compilation import compile_blocks
from ulzoo.training.trainer import Trainer, TrainerOptions

OF_FP32, OF_STEPS, WAIT = 0.6, 1.05, 0.02


def trainer(
    name: str, stage: Any, device: torch.device, folder: Path, options: TrainerOptions | None = None, **changes: Any
) -> Trainer:
    """A trainer of a new model, with some keys of the stage changed."""
    torch.manual_seed(0)
    spec = load_spec(name)
    config = getattr(spec.train, stage).model_copy(update=changes)
    source = open_source(spec, "train", stage)
    return Trainer(compile_model(spec, device), stage, config, source, folder, options or TrainerOptions({}))


def step(name: str, stage: Any, device: torch.device, folder: Path, **changes: Any) -> Callable:
    """A step after the warm-up, of a trainer of its own."""
    one = trainer(name, stage, device, folder, **changes)
    one.step = one.config.warmup_steps
    if one.config.compile is True:
        compile_blocks(one.networks)
    batch = next(batches(one.source, one.config.batch_size, seed=0))
    return lambda: one._step(batch)


def overhead(name: str, stage: Any, device: torch.device, folder: Path, steps: int) -> tuple[float, float]:
    """Wall time of a run over the time of its steps, and the share of it spent waiting for data.

    The first row, which includes the start of the data, does not count; a checkpoint in the middle does.
    """
    changes = {"steps": steps, "log_every": steps // 6, "checkpoint_every": steps // 2, "warmup_steps": 1}
    if stage == "latents":
        changes["prior_warmup_steps"] = 0
    step_seconds: list[float] = []
    row_times: list[float] = []
    waits: list[float] = []

    def on_step(number: int, row: Any) -> None:
        if row:
            row_times.append(time.perf_counter())
            waits.append(row["data_wait"])

    one = trainer(name, stage, device, folder, TrainerOptions({}, on_step=on_step), **changes)
    original_step = one._step

    def timed_step(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        metrics = original_step(*args, **kwargs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        step_seconds.append(time.perf_counter() - started)
        return metrics

    one._step = timed_step
    one.run()
    return (row_times[-1] - row_times[0]) / sum(step_seconds[steps // 6 :]), max(waits[1:])


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--spec", default="emoji32_tiny")
    arguments.add_argument("--stage", default="latents")
    arguments.add_argument("--steps", type=int, default=60, help="steps of the run whose overhead is measured")
    arguments.add_argument("--compile", action="store_true", help="also measure compiled steps (C++ compiler or GPU)")
    options = arguments.parse_args()
    device = prepare(options)
    kinds = {"": False, ", compiled blocks": True, ", compiled step": "step"} if options.compile else {"": False}
    variants = {
        precision + kind: {"precision": precision, "compile": value}
        for precision in (("fp32", "bf16") if has_bf16(device) else ("fp32",))
        for kind, value in kinds.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            key: step(options.spec, options.stage, device, Path(folder), **changes) for key, changes in variants.items()
        }
        seconds = by_turns(sides, device, options.rounds, warm=3)
        runs = [
            overhead(options.spec, options.stage, device, Path(folder) / str(n), options.steps // 6 * 6)
            for n in range(3)
        ]
    ratios = {key: ratio(values, seconds["fp32"]) for key, values in seconds.items()}
    wall, wait = (Spread.of([run[i] for run in runs]) for i in (0, 1))
    for key, of_fp32 in ratios.items():
        print(f"{key:22s} {Spread.of(seconds[key])} s, {of_fp32} of fp32")
    print(f"a run over its steps: {wall}; data wait {wait}")
    content = {"spec": options.spec, "stage": options.stage, "seconds": {k: Spread.of(v) for k, v in seconds.items()}}
    name = "step" if options.stage == "latents" else f"step_{options.stage}"
    publish(name, {**content, "of_fp32": ratios, "wall_of_steps": wall, "data_wait": wait}, device, options.out)
    best = min(of_fp32.median for of_fp32 in ratios.values())
    return int(best > OF_FP32 or wall.median > OF_STEPS or wait.median > WAIT)


if __name__ == "__main__":
    sys.exit(main())
