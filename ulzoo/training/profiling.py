"""Where the time of training goes: a few steps under PyTorch's profiler, as a trace and a table."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ulzoo.files.atomic import write_atomically, write_text
from ulzoo.model.contract import Stage

BEFORE, STEPS, ROWS = 5, 5, 40


@contextmanager
def profiled(folder: Path, stage: Stage, device: torch.device) -> Iterator[Callable[[], None]]:
    """Gives what to call after each step. After the tenth, `folder` holds, of the last five:

    - `STAGE.json.gz`, a Chrome trace, for https://ui.perfetto.dev;
    - `STAGE.txt`, a table of operators by the time that they take;
    - `STAGE-memory.pickle` on a GPU, a snapshot of its memory, for https://pytorch.org/memory_viz.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]

    def write(found: profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{stage}.json.gz", lambda aside: found.export_chrome_trace(str(aside)))
        table = found.key_averages().table(f"self_{device.type}_time_total", ROWS, max_name_column_width=80)
        write_text(folder / f"{stage}.txt", f"{STEPS} steps\n{table}\n")
        if cuda:
            snapshot = folder / f"{stage}-memory.pickle"
            write_atomically(snapshot, lambda aside: torch.cuda.memory._dump_snapshot(str(aside)))
            torch.cuda.memory._record_memory_history(None)

    if cuda:
        torch.cuda.memory._record_memory_history()
    steps = schedule(wait=BEFORE - 2, warmup=2, active=STEPS, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write, profile_memory=cuda) as profiler:
        yield profiler.step


SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}
SECONDS = 0.1


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of products of large square matrices: the best of all, of the best side."""
    return max(product_speed(device, dtype, side) for side in SIDES.get(device.type, SIDES["cpu"]))


def product_speed(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOPs per second of the quickest of the products of this side that fit in a tenth of a second.

    The quickest one, since what else a machine does only slows them; the clock counts.
    """
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    out = torch.mm(a, b)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        best = min(best, _seconds(a, b, out))
    return 2 * side**3 / best


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    _wait(a.device)
    started = time.perf_counter()
    torch.mm(a, b, out=out)
    _wait(a.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
