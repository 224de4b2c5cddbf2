"""Overhead of the local engine of `ulzoo sweep`, compared with a plain loop over the same points in one process.

    python -m benchmarks sweep_overhead [--spec emoji32_tiny] [--points 2] [--steps 100] [--rounds 2]
                                        [--out benchmarks/results/sweep_overhead.json]

Both start one process on the CPU with one thread and train the points one after another; the engine also plans them,
locks their folders, writes the store and reports every step. Measured are wall-clock seconds and, less sensitive to
other load, CPU seconds of the process and its children. Points are short: the cost of the engine does not grow with
them, so its share of longer ones is smaller. Exit status 1 if the engine takes more than 5 % more CPU time.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from ulzoo.files.atomic import write_text
from ulzoo.registry.runs.export import versions
from ulzoo.registry.sweeps.engine_local import LocalEngine
from ulzoo.registry.sweeps.jobs import plan_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.store import Store

MAX_OVERHEAD = 0.05


def by_engine(spec: str, factors: list[str], settings: list[str], folder: Path) -> None:
    sweep, overrides = sweep_from_options(spec, {"--loss-factor": ",".join(factors)}, settings)
    jobs = plan_jobs(sweep, Store(folder), overrides=overrides)
    rows = list(LocalEngine(["cpu"], threads=1).run(jobs))
    assert [row["status"] for row in rows] == ["done"] * len(factors), [row["error"] for row in rows]


def by_loop(spec: str, factors: list[str], settings: list[str], folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_loop, args=(spec, factors, settings, folder))
    process.start()
    process.join()
    assert process.exitcode == 0


def _loop(spec: str, factors: list[str], settings: list[str], folder: Path) -> None:
    import torch

    from ulzoo.registry import load_spec
    from ulzoo.registry.runs.train import RunOptions, train

    torch.set_num_threads(1)
    for factor in factors:
        train(
            load_spec(spec, [*settings, f"decoder.weighting.loss_factor={factor}"]),
            folder / factor,
            RunOptions(device="cpu"),
        )


def timed(work: Callable[[Path], None]) -> dict[str, float]:
    """Wall-clock seconds, and processor seconds of this process and its finished children."""

    def processor() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used)

    with tempfile.TemporaryDirectory() as folder:
        started, before = time.perf_counter(), processor()
        work(Path(folder))
        return {"clock": time.perf_counter() - started, "processor": processor() - before}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="emoji32_tiny")
    parser.add_argument("--points", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    factors = [f"{1 + i / 10:g}" for i in range(arguments.points)]
    settings = [f"train.{stage}.steps={arguments.steps}" for stage in ("latents", "base")]
    ways = {"loop": by_loop, "engine": by_engine}
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(arguments.rounds):
        seconds = {}
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            seconds[name] = timed(lambda folder, way=ways[name]: way(arguments.spec, factors, settings, folder))
        rounds.append(seconds)
        print(json.dumps(seconds), flush=True)
    result: dict[str, Any] = {
        "spec": arguments.spec,
        "points": arguments.points,
        "steps_of_each_stage": arguments.steps,
        "machine": {**versions(), "cores": os.cpu_count()},
        "rounds": rounds,
    }
    for kind in ("clock", "processor"):
        loop, engine = (median(seconds[name][kind] for seconds in rounds) for name in ways)
        result[kind] = {"loop_s": loop, "engine_s": engine, "overhead": engine / loop - 1}
        print(f"{kind}: loop {loop:.1f} s, engine {engine:.1f} s, overhead {engine / loop - 1:+.1%}")
    if arguments.out:
        write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    return int(result["processor"]["overhead"] > MAX_OVERHEAD)


if __name__ == "__main__":
    sys.exit(main())
