"""Speed of training: a profile of a few steps, and the peak speed of the device that utilisation is relative to."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ulzoo.files.atomic import write_atomically, write_text
from ulzoo.model.contract import Stage

SKIPPED_STEPS, PROFILED_STEPS, TABLE_ROWS = 5, 5, 40
MATRIX_SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}
SECONDS_PER_SIDE = 0.1


@contextmanager
def profile_steps(folder: Path, stage: Stage, device: torch.device) -> Iterator[Callable[[], None]]:
    """Yield a function to call after every step. After the tenth call, `folder` has the profile of the last five steps:

    - `STAGE.json.gz`, a Chrome trace, for https://ui.perfetto.dev;
    - `STAGE.txt`, a table of operators by the time they take;
    - `STAGE-memory.pickle` on a GPU, a memory snapshot, for https://pytorch.org/memory_viz.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]

    def write(result: profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{stage}.json.gz", lambda path: result.export_chrome_trace(str(path)))
        table = result.key_averages().table(f"self_{device.type}_time_total", TABLE_ROWS, max_name_column_width=80)
        write_text(folder / f"{stage}.txt", f"{PROFILED_STEPS} steps\n{table}\n")
        if cuda:
            snapshot = folder / f"{stage}-memory.pickle"
            write_atomically(snapshot, lambda path: torch.cuda.memory._dump_snapshot(str(path)))
            torch.cuda.memory._record_memory_history(None)

    if cuda:
        torch.cuda.memory._record_memory_history()
    steps = schedule(wait=SKIPPED_STEPS - 2, warmup=2, active=PROFILED_STEPS, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write, profile_memory=cuda) as profiler:
        yield profiler.step


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Peak FLOPs per second of the device: the highest matmul speed over a few sizes of matrices."""
    sides = MATRIX_SIDES.get(device.type, MATRIX_SIDES["cpu"])
    return max(matmul_speed(device, dtype, side) for side in sides)


def matmul_speed(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOPs per second of the fastest of many products of square matrices: other load can only slow them down."""
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    out = torch.mm(a, b)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < SECONDS_PER_SIDE:
        best = min(best, _seconds(a, b, out))
    return 2 * side**3 / best


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    _synchronize(a.device)
    started = time.perf_counter()
    torch.mm(a, b, out=out)
    _synchronize(a.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
