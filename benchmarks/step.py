"""A training step in the spec's precision, compiled and not, beside the plain fp32 one; and what `train` adds to steps.

    python -m benchmarks step [--spec emoji32_tiny] [--stage latents] [--steps 60] [--compile] [--device D] [--json]

All sides are steps of the trainer, with the same networks, optimizer and images: noise, forward, backward, clipping,
optimizer and average. Bars: 0.6 of the fp32 step; a run takes at most 1.05 of the time in its steps, and waits for data
less than 2 % of it.
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
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.train import open_source
from ulzoo.training.parallelize import compile_blocks
from ulzoo.training.trainer import Trainer

OF_FP32, OF_STEPS, WAIT = 0.6, 1.05, 0.02


def trainer(name: str, stage: Any, device: torch.device, folder: Path, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    spec = load_spec(name)
    config = getattr(spec.train, stage).model_copy(update=changes)
    return Trainer(compile_model(spec, device), stage, config, open_source(spec, "train", stage), folder, {})


def step(name: str, stage: Any, device: torch.device, folder: Path, precision: str, compiled: bool) -> Callable:
    one = trainer(name, stage, device, folder, precision=precision)
    one.step = one.config.warmup_steps
    if compiled:
        compile_blocks(one.networks)
    batch = next(batches(one.source, one.config.batch_size, seed=0))
    return lambda: one._step(batch)


def overhead(name: str, stage: Any, device: torch.device, folder: Path, steps: int) -> tuple[float, float]:
    """Wall time of a run over the time within its steps, and the share of it that it waits for data.

    Without the first row, which starts the data; with a checkpoint in the middle.
    """
    changes = {"steps": steps, "log_every": steps // 6, "checkpoint_every": steps // 2, "warmup_steps": 1}
    if stage == "latents":
        changes["prior_warmup_steps"] = 0
    one = trainer(name, stage, device, folder, **changes)
    inside: list[float] = []
    began: list[float] = []
    waits: list[float] = []
    work = one._step

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        terms = work(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        inside.append(time.perf_counter() - started)
        return terms

    def on_step(number: int, row: Any) -> None:
        if row:
            began.append(time.perf_counter())
            waits.append(row["data_wait"])

    one._step, one.on_step = timed, on_step  # type: ignore[method-assign]
    one.run()
    return (began[-1] - began[0]) / sum(inside[steps // 6 :]), max(waits[1:])


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--spec", default="emoji32_tiny")
    arguments.add_argument("--stage", default="latents")
    arguments.add_argument("--steps", type=int, default=60, help="of the run whose overhead is measured")
    arguments.add_argument("--compile", action="store_true", help="a compiled side too; needs a C++ compiler or a GPU")
    options = arguments.parse_args()
    device = prepare(options)
    asked = {"fp32": ("fp32", False), "bf16": ("bf16", False)}
    if options.compile:
        asked |= {"fp32, compiled": ("fp32", True), "bf16, compiled": ("bf16", True)}
    with tempfile.TemporaryDirectory() as folder:
        sides = {key: step(options.spec, options.stage, device, Path(folder), *how) for key, how in asked.items()}
        seconds = by_turns(sides, device, options.rounds, warm=3)
        runs = [
            overhead(options.spec, options.stage, device, Path(folder) / str(n), options.steps // 6 * 6)
            for n in range(3)
        ]
    ratios = {key: ratio(values, seconds["fp32"]) for key, values in seconds.items()}
    wall, wait = (Spread.of([run[i] for run in runs]) for i in (0, 1))
    for key, found in ratios.items():
        print(f"{key:16s} {Spread.of(seconds[key])} s, {found} of fp32")
    print(f"a run over its steps: {wall}; data wait {wait}")
    content = {"spec": options.spec, "stage": options.stage, "seconds": {k: Spread.of(v) for k, v in seconds.items()}}
    name = "step" if options.stage == "latents" else f"step_{options.stage}"
    publish(name, {**content, "of_fp32": ratios, "wall_of_steps": wall, "data_wait": wait}, device, options.out)
    best = min(found.median for found in ratios.values())
    return int(best > OF_FP32 or wall.median > OF_STEPS or wait.median > WAIT)


if __name__ == "__main__":
    sys.exit(main())
