"""Shared by the benchmarks: alternatives that take turns in one process, medians, the machine, and results as files."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from ulzoo.files.atomic import write_text
from ulzoo.registry.runs.export import versions
from ulzoo.runtime.devices import pick_device

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it.

    Attributes:
        count: number of values.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
        return cls(median(values), low, high, len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with `--device`, `--threads`, `--rounds` and `--out`; `doc` is the docstring of the benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu, cuda, cuda:N; default: the best one available")
    parser.add_argument("--threads", type=int, help="number of PyTorch's threads on the CPU")
    parser.add_argument("--rounds", type=int, default=9, help="number of measurements of every side")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return parser


def prepare(options: argparse.Namespace) -> torch.device:
    """Set the threads and the seed, and return the device that the options of `parser` name."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return pick_device(options.device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until `work` is done, also on the device.

    Wall-clock time, or on one thread of the CPU processor time, which is less sensitive to other load.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    synchronise(device)
    started = clock()
    work()
    synchronise(device)
    return clock() - started


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def by_turns(
    sides: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, warm: int = 1, least: float = 0.1
) -> dict[str, list[float]]:
    """Seconds per call of every side in each round.

    All sides run in every round, starting with a different one each time, so that other load affects them equally. A
    side that takes less than `least` seconds is called repeatedly, and the mean counts.
    """
    calls = {}
    for name, work in sides.items():
        for _ in range(warm):
            work()
        calls[name] = max(1, round(least / max(timed(work, device), 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            repeat = range(calls[name])
            seconds[name].append(
                timed(lambda work=sides[name], repeat=repeat: [work() for _ in repeat], device) / calls[name]
            )
    return seconds


def ratio(above: list[float], below: list[float]) -> Spread:
    """The ratio of two sides, round by round: other load during a round does not change it."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the versions that results were measured with."""
    description = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions(),
    }
    if device.type == "cuda":
        description |= {"cuda": torch.version.cuda, "gpu_bytes": torch.cuda.get_device_properties(device).total_memory}
    return description


def processor() -> str:
    """The processor's name, and its features that determine the speed of multiplication."""
    name, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        name, flags = fields.get("model name", name), fields.get("flags", "")
    features = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags.split()]
    return ", ".join([name, *features])


def publish(name: str, content: Mapping[str, Any], device: torch.device, out: Path) -> Path:
    """Write `NAME.json` to the folder `out`, with the date and the machine, and print its path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    results = {"benchmark": name, "date": datetime.now(UTC).date().isoformat(), "machine": machine(device), **content}
    write_text(path, json.dumps(results, indent=1, default=_plain) + "\n")
    print(path)
    return path


def _plain(value: object) -> object:
    """A spread as JSON, with four digits, which is more than its accuracy."""
    assert isinstance(value, Spread), value
    return {
        key: float(f"{number:.4g}") if isinstance(number, float) else number for key, number in asdict(value).items()
    }
