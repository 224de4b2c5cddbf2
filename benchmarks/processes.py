"""How training speeds up with the number of processes: images per second on 1, 2, …, N, with equal local batches.

    python -m benchmarks processes [--processes 1 2] [--rounds 3] [--steps 20] [--spec emoji32_tiny] [--device D]
                                   [--set KEY=VALUE]... [--out benchmarks/results] [--json]

Stage 1 of the spec on one process, on N that train apart from each other at the same time, on N with DDP and on N with
FSDP take turns; every process has a thread or a GPU. Those apart show what the machine can do: its cores share memory,
caches, clock and, as hyperthreads, execution units. The cost of an image is processes × seconds per image; a line
through its logarithms is flat if the speed is proportional to the number of processes. Writes processes.json and
processes.png.
"""

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks.costs import slope
from benchmarks.measuring import Spread, parser, prepare, publish
from benchmarks.pictures import save_figure
from ulzoo.registry import load_spec
from ulzoo.training.monitoring import read_rows

Kind = Literal["apart", "ddp", "fsdp"]
KINDS: tuple[Kind, ...] = ("apart", "ddp", "fsdp")


def speed(options: Namespace, device: str, processes: int, kind: Kind, batch_size: int) -> float:
    """Images per second of stage 1 by all processes, without the first rows."""
    runs, together = (processes, 1) if kind == "apart" else (1, processes)
    settings = [
        f"train.latents.steps={options.steps}",
        f"train.latents.batch_size={batch_size * together}",
        "train.latents.log_every=2",
        *([] if kind == "apart" else [f"train.parallel.kind={kind}"]),
        *options.set,
    ]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={together}", "-m"]
    command = [sys.executable, *(launcher if together > 1 else ["-m"]), "ulzoo", "train", options.spec]
    command += ["--stage", "latents", "--device", device]
    command += [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / str(run) for run in range(runs)]
        environments: list[dict[str, str]] = [{**os.environ, "OMP_NUM_THREADS": "1"} for _ in folders]
        if device == "cuda" and kind == "apart":
            environments = [env | {"CUDA_VISIBLE_DEVICES": str(run)} for run, env in enumerate(environments)]
        started = [
            subprocess.Popen([*command, "--out", str(folder)], env=environment, stdout=subprocess.DEVNULL)
            for folder, environment in zip(folders, environments, strict=True)
        ]
        exit_statuses = [process.wait() for process in started]
        if any(exit_statuses):
            raise SystemExit("training failed")
        metrics = [read_rows(folder / "metrics.jsonl")[2:] for folder in folders]
    return sum(median(row["images_per_second"] for row in rows) for rows in metrics)


def plot(results: list[dict[str, Any]], where: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.2, 3.4), layout="constrained")
    for result in results:
        counts = [row["processes"] for row in result["rows"]]
        spreads = [row["images_per_second"] for row in result["rows"]]
        speeds = [spread.median for spread in spreads]
        errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
        name = result["kind"] if result["kind"] == "apart" else result["kind"].upper()
        label = f"{name}, cost per image: power {result['exponent_of_cost']:.2f}"
        axes.errorbar(counts, speeds, errors, fmt="o-", capsize=3, label=label)
    axes.plot(counts, [speeds[0] * count / counts[0] for count in counts], "--", color="0.6", label="linear")
    axes.set(xlabel="processes", ylabel="images per second", xscale="log", yscale="log", title=where)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    save_figure(figure, path.with_suffix(".png"))


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--spec", default="emoji32_tiny")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments.set_defaults(rounds=3, threads=1)
    options = arguments.parse_args()
    device = prepare(options)
    config = load_spec(options.spec, options.set).train.latents
    cases = [(count, kind) for count in options.processes for kind in KINDS if count > 1 or kind == "apart"]
    speeds: dict[tuple[int, Kind], list[float]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for count, kind in cases:
            speeds[count, kind].append(speed(options, device.type, count, kind, config.batch_size))
            print(f"{kind} on {count}: {speeds[count, kind][-1]:.1f} images/s", flush=True)
    results = []
    for kind in KINDS:
        rows = [
            {"processes": count, "images_per_second": Spread.of(speeds[count, kind if count > 1 else "apart"])}
            for count in options.processes
        ]
        of_linear = [
            row["images_per_second"].median * options.processes[0]
            / (rows[0]["images_per_second"].median * row["processes"])
            for row in rows
        ]  # fmt: skip
        power = slope(options.processes, [1 / share for share in of_linear])
        last = options.processes[-1]
        of_apart = rows[-1]["images_per_second"].median / median(speeds[last, "apart"])
        results.append(
            {"kind": kind, "exponent_of_cost": power, "of_linear": of_linear, "of_apart": of_apart, "rows": rows}
        )
        print(
            f"{kind}: {of_linear[-1]:.2f} of linear, {of_apart:.2f} of {last} apart; the cost per image grows as the "
            f"power {power:.2f} of the processes"
        )
    content = {
        "spec": options.spec, "set": options.set, "optimizer": config.optimizer,
        "batch_size_of_a_process": config.batch_size, "kinds": results,
    }  # fmt: skip
    where = f"stage 1 of {options.spec}, {config.optimizer}, {device.type}"
    plot(results, where, publish("processes", content, device, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
