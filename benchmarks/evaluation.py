"""How an evaluation speeds up with the number of processes: rate, distortion and rFID of 512 emoji.

    python -m benchmarks evaluation [--processes 1 2] [--rounds 3] [--model emoji32_tiny] [--images 512]
                                    [--batch-size 32] [--device D] [--out benchmarks/results] [--json]

Numbers of processes take turns; each process has a thread or a GPU. Measured are the seconds of `evaluate`, from one
reconstruction of each image, without the start of Python and with the statistics of the originals computed each time;
and the processor time of the busiest process, which is less sensitive to other load of the machine.
The bar: two processes are at least 1.7 times as fast as one, and all metrics agree to a relative 1e-6. Writes
evaluation.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Spread, parser, prepare, publish, ratio
from ulzoo.evaluation import EvaluationConfig, FrechetConfig, evaluate
from ulzoo.evaluation.features.images import efficientnet_lite0
from ulzoo.files.atomic import write_text
from ulzoo.registry.compile import open_source
from ulzoo.registry.zoo.catalogue import open_model
from ulzoo.runtime.devices import pick_device
from ulzoo.runtime.processes import local_device, process_group

BAR, TOLERANCE = 1.7, 1e-6


def measure(model: str, images: int, batch_size: int, device: str, out: Path) -> None:
    """Evaluate once in this process and those that torchrun started with it; the main one writes figures and time."""
    place = local_device(pick_device(device))
    if place.type == "cpu":
        torch.set_num_threads(1)
    loaded = open_model(model, place)
    source = open_source(loaded.spec, "train")  # the validation split has fewer
    config = EvaluationConfig(loaded.spec.data_identity(), split="train", limit=images, batch_size=batch_size)
    frechet = FrechetConfig(efficientnet_lite0(place))
    with process_group(place, 60) as processes:
        processes.all_gather(None)
        start, started = time.perf_counter(), time.process_time()
        results = evaluate(loaded.model, source, config, frechet, processes=processes)
        seconds, work = time.perf_counter() - start, processes.all_gather(time.process_time() - started)
        results |= {"seconds": seconds, "processor_seconds": max(work)}
        if processes.is_main:
            write_text(out, json.dumps({name: results[name] for name in ("seconds", "processor_seconds", "figures")}))


def run(options: Namespace, device: str, processes: int) -> dict[str, Any]:
    """Figures and seconds on a number of processes."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command = [sys.executable, *(launcher if processes > 1 else ["-m"]), "benchmarks.evaluation", "--measure"]
        settings = [options.model, str(options.images), str(options.batch_size), device, f"{folder}/results.json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_HOME": folder}  # an empty cache
        subprocess.run([*command, *settings], check=True, env=environment)
        return json.loads(Path(folder, "results.json").read_text("utf-8"))


def largest_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest relative difference of two sets of figures."""
    return max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-12) for name in a)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--model", default="emoji32_tiny")
    arguments.add_argument("--images", type=int, default=512)
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.set_defaults(rounds=3, threads=1)
    options = arguments.parse_args()
    device = prepare(options)
    rounds: dict[int, list[dict[str, Any]]] = {count: [] for count in options.processes}
    for _ in range(options.rounds):
        for count, results in rounds.items():
            results.append(run(options, device.type, count))
            print(
                "{} processes: {seconds:.1f} s, {processor_seconds:.1f} of work".format(count, **results[-1]),
                flush=True,
            )
    first, rows = options.processes[0], []
    seconds = {count: [result["seconds"] for result in results] for count, results in rounds.items()}
    work = {count: [result["processor_seconds"] for result in results] for count, results in rounds.items()}
    for count, results in rounds.items():
        speedup = ratio(seconds[first], seconds[count])
        difference = max(largest_difference(rounds[first][0]["figures"], result["figures"]) for result in results)
        share = ratio(work[first], work[count])
        row = {"processes": count, "seconds": Spread.of(seconds[count]), "speedup": speedup, "speedup_of_work": share}
        rows.append({**row, "difference": difference})
        print(
            f"{count} processes: {speedup} times as fast as {first}, {share} by work; figures within {difference:.1e}"
        )
    content = {
        "model": options.model, "images": options.images, "batch_size": options.batch_size,
        "figures": rounds[first][0]["figures"], "rows": rows,
    }  # fmt: skip
    publish("evaluation", content, device, options.out)
    slow = any(row["speedup"].median < BAR for row in rows if (row["processes"], first) == (2, 1))
    return int(slow or any(row["difference"] > TOLERANCE for row in rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        name, count, size, kind, path = sys.argv[2:]
        measure(name, int(count), int(size), kind, Path(path))
    else:
        sys.exit(main())
