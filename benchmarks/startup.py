"""Seconds from `ulzoo train SPEC` to the first step, in fresh processes, and where they go.

    python -m benchmarks startup [--spec emoji32_tiny] [--rounds 3] [--bar 10]

The whole is until the first step stands in metrics.jsonl. The parts come from another process, which does the same:
seconds of the clock, and of the processor, which what else the machine does changes less. Writes startup.json;
exit status 1 if the median of the whole is above the bar.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Spread, parser, prepare, publish

PARTS = """
import json, os, sys, time
from pathlib import Path
found, last = {}, [time.perf_counter(), time.process_time()]
def part(name):
    now = time.perf_counter(), time.process_time()
    found[name] = [now[0] - last[0], now[1] - last[1]]
    last[:] = now
import ulzoo.cli, ulzoo.cli.commands.train
part("the command line")
import torch
part("import torch")
from ulzoo.registry import load_spec
from ulzoo.registry.runs import train as run
from ulzoo.registry.cost.plan import plan_training
from ulzoo.cli.display.train_progress import display
part("import what trains")
spec, device = load_spec(sys.argv[1]), torch.device(sys.argv[2])
part("the spec")
plan = plan_training(spec, "all", device)
part("networks, FLOPs")
class TrainingCallback(run.TrainingCallback):
    def stage(self, *_):
        part("data, model, trainer")
    def step(self, *_):
        part("the first step")
        print(json.dumps(found), flush=True)
        os._exit(0)
run.train(spec, Path(sys.argv[3]), run.RunOptions(device=device), callback=TrainingCallback())
"""


def whole(spec: str, device: str, folder: Path) -> float:
    """Until metrics.jsonl has a row; the run is then stopped."""
    told = ["--device", device, "--out", str(folder), "--set", "train.latents.log_every=1"]
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "ulzoo", "train", spec, *told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        if process.poll() is not None:
            raise SystemExit(f"`ulzoo train {spec}` ended before its first step, with status {process.returncode}")
        process.send_signal(signal.SIGKILL)
    return seconds


def parts(spec: str, device: str, folder: Path) -> dict[str, list[float]]:
    """Seconds of the clock and of the processor, part by part."""
    told = subprocess.run([sys.executable, "-c", PARTS, spec, device, str(folder)], stdout=subprocess.PIPE, check=True)
    return json.loads(told.stdout)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--spec", default="emoji32_tiny")
    arguments.add_argument("--bar", type=float, default=10.0, help="seconds")
    arguments.set_defaults(rounds=3)
    options = arguments.parse_args()
    device = prepare(options)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    seconds, each = [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(whole(options.spec, device.type, Path(folder) / "whole"))
            each.append(parts(options.spec, device.type, Path(folder) / "parts"))
    clock, processor = (
        {name: Spread.of([found[name][which] for found in each]) for name in each[0]} for which in (0, 1)
    )
    for name in clock:
        print(f"{name:<20} {clock[name].median:6.2f} s, of the processor {processor[name].median:6.2f} s")
    total: dict[str, Any] = {
        "to_the_first_step": Spread.of(seconds),
        "parts_of_the_clock": clock,
        "parts_of_the_processor": processor,
        "processor_in_all": Spread.of([sum(found[name][1] for name in found) for found in each]),
    }
    print(f"to the first step: {total['to_the_first_step']} s, of the processor {total['processor_in_all']} s")
    publish("startup", {"spec": options.spec, "bar": options.bar, **total}, device, options.out)
    return int(total["to_the_first_step"].median > options.bar)


if __name__ == "__main__":
    raise SystemExit(main())
