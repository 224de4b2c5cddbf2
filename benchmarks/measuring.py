"""What the benchmarks share: sides that take turns in one process, medians, the machine, and results as files."""

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
        count: how many values.
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
    """`--device`, `--threads`, `--rounds` and `--out`; `doc` is the benchmark's own docstring."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", help="cpu, cuda, cuda:N; the best one here by default")
    made.add_argument("--threads", type=int, help="of PyTorch on the CPU")
    made.add_argument("--rounds", type=int, default=9, help="how often every side is timed")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return made


def prepare(options: argparse.Namespace) -> torch.device:
    """The device of `parser`'s options, with the threads that were asked for; one seed for all weights."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return pick_device(options.device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until all of `work` is done, on the device too.

    They are of the clock; but of the processor where it works on one thread, which what else the machine does changes
    less.
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
    """Seconds of one call of every side in each round.

    All sides run in every round, beginning with another one each time, so that what else the machine does meets all of
    them; a side quicker than `least` seconds is called as often as fits, and the mean counts.
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
    """Of two sides, round by round: what slows a whole round down does not change it."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def machine(device: torch.device) -> dict[str, Any]:
    """Where and with what figures were measured."""
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions(),
    }
    if device.type == "cuda":
        found |= {"cuda": torch.version.cuda, "gpu_bytes": torch.cuda.get_device_properties(device).total_memory}
    return found


def processor() -> str:
    """The processor's name, and those of its abilities that decide how fast it multiplies."""
    name, flags = platform.processor() or platform.machine(), ""
    described = Path("/proc/cpuinfo")
    if described.exists():
        lines = dict(line.split(":", 1) for line in described.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        name, flags = fields.get("model name", name), fields.get("flags", "")
    abilities = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags.split()]
    return ", ".join([name, *abilities])


def publish(name: str, content: Mapping[str, Any], device: torch.device, out: Path) -> Path:
    """Write `NAME.json` into the folder `out`, with the date and the machine, and say where."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    whole = {"benchmark": name, "date": datetime.now(UTC).date().isoformat(), "machine": machine(device), **content}
    write_text(path, json.dumps(whole, indent=1, default=_plain) + "\n")
    print(path)
    return path


def _plain(value: object) -> object:
    """A spread as JSON: four figures are more than it can be trusted for."""
    assert isinstance(value, Spread), value
    return {
        key: float(f"{number:.4g}") if isinstance(number, float) else number for key, number in asdict(value).items()
    }
