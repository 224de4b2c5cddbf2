"""Seconds from `ulzoo train SPEC` to the first step, in new processes, and what they are spent on.

    python -m benchmarks startup [--spec emoji32_tiny] [--rounds 3] [--bar 10]

The total is the time until metrics.jsonl has its first row. The parts are measured in another process that does the
same, in wall-clock time and in processor time, which is less sensitive to other load. Also the processor time of
`ulzoo list` and `ulzoo show`. Writes startup.json; exit status 1 if the median of the total is above the bar.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Spread, parser, prepare, publish

COMMANDS = ("list", "show imagenet512_medium")

PARTS = """
import json, os, sys, time
from pathlib import Path
seconds, last = {}, [time.perf_counter(), time.process_time()]
def part(name):
    now = time.perf_counter(), time.process_time()
    seconds[name] = [now[0] - last[0], now[1] - last[1]]
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
class Callback(run.TrainingCallback):
    def on_stage(self, *_):
        part("data, model, trainer")
    def on_step(self, *_):
        part("the first step")
        print(json.dumps(seconds), flush=True)
        os._exit(0)
run.train(spec, Path(sys.argv[3]), run.RunOptions(device=device), callback=Callback())
"""


def time_to_first_row(spec: str, device: str, folder: Path) -> float:
    """Seconds until metrics.jsonl has a row; the run is then killed."""
    arguments = ["--device", device, "--out", str(folder), "--set", "train.latents.log_every=1"]
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "ulzoo", "train", spec, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
    """Wall-clock and processor seconds of every part."""
    command = [sys.executable, "-c", PARTS, spec, device, str(folder)]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(result.stdout)


def processor_seconds(command: str) -> float:
    """Processor time of `ulzoo COMMAND`, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "ulzoo", *command.split()], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--spec", default="emoji32_tiny")
    arguments.add_argument("--bar", type=float, default=10.0, help="seconds")
    arguments.set_defaults(rounds=3)
    options = arguments.parse_args()
    device = prepare(options)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # by default, Python writes bytecode, and imports once compiled
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    totals, rounds = [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            totals.append(time_to_first_row(options.spec, device.type, Path(folder) / "total"))
            rounds.append(parts(options.spec, device.type, Path(folder) / "parts"))
    clock, processor = (
        {name: Spread.of([seconds[name][which] for seconds in rounds]) for name in rounds[0]} for which in (0, 1)
    )
    for name in clock:
        print(f"{name:<20} {clock[name].median:6.2f} s, of the processor {processor[name].median:6.2f} s")
    commands = {command: Spread.of([processor_seconds(command) for _ in range(options.rounds)]) for command in COMMANDS}
    for command, seconds in commands.items():
        print(f"ulzoo {command}: {seconds} s of the processor")
    total: dict[str, Any] = {
        "to_the_first_step": Spread.of(totals),
        "parts_of_the_clock": clock,
        "parts_of_the_processor": processor,
        "processor_in_all": Spread.of([sum(processor for _, processor in seconds.values()) for seconds in rounds]),
        "processor_of_commands": commands,
    }
    print(f"to the first step: {total['to_the_first_step']} s, of the processor {total['processor_in_all']} s")
    publish("startup", {"spec": options.spec, "bar": options.bar, **total}, device, options.out)
    return int(total["to_the_first_step"].median > options.bar)


if __name__ == "__main__":
    raise SystemExit(main())
