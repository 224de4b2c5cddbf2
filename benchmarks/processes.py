"""Weak scaling of training: images per second on 1 and on N processes, each with the same share of a batch.

    python benchmarks/processes.py [--processes 2] [--rounds 3] [--steps 20] [--spec emoji32_tiny] [--device cpu]
                                   [--set KEY=VALUE]... [--out benchmarks/results]

By turns, stage 1 of the spec by one process, by N with DDP and by N with FSDP; every process on one thread. The ratio
is that of images per second to N times those of one process. Writes processes.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from ulzoo.files import write_text
from ulzoo.registry import load_spec
from ulzoo.registry.export import versions
from ulzoo.training.metrics import read_rows


def speed(options: argparse.Namespace, processes: int, kind: str, batch_size: int) -> float:
    """Images per second of stage 1, the first rows left out."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"train.latents.steps={options.steps}",
            f"train.latents.batch_size={batch_size * processes}",
            "train.latents.log_every=2",
            f"train.parallel.kind={kind}",
            *options.set,
        ]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command = [sys.executable, *(launcher if processes > 1 else ["-m"]), "ulzoo", "train", options.spec]
        words = [word for setting in settings for word in ("--set", setting)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        told = ["--stage", "latents", "--device", options.device, "--out", folder]
        subprocess.run([*command, *told, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
        rows = read_rows(Path(folder) / "metrics.jsonl")
    return statistics.median(row["images_per_second"] for row in rows[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--spec", default="emoji32_tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    batch_size = load_spec(options.spec, options.set).train.latents.batch_size
    many = options.processes
    cases = {"one": (1, "ddp"), "ddp": (many, "ddp"), "fsdp": (many, "fsdp")}
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (count, kind) in cases.items():
            speeds[name].append(speed(options, count, kind, batch_size))
            print(f"{name:>5} on {count}: {speeds[name][-1]:.1f} images/s", flush=True)
    one = statistics.median(speeds["one"])
    ratios = {name: statistics.median(speeds[name]) / (many * one) for name in ("ddp", "fsdp")}
    device = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    result = {
        "spec": options.spec, "set": options.set, "processes": many, "batch_size_of_a_process": batch_size,
        "images_per_second": speeds, "of_linear": ratios, "device": device, "versions": versions(),
    }  # fmt: skip
    write_text(options.out / "processes.json", json.dumps(result, indent=1) + "\n")
    print(", ".join(f"{name}: {ratio:.2f} of linear" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
