"""Whether a spec trains on this machine: one optimizer step of each stage on noise, its memory beside the plan.

    python -m benchmarks one_step SPEC [--batch 1] [--device cpu] [--out FILE.json]

Each stage runs in a separate process, so that its peak memory can be measured: resident memory on the CPU, minus that
before the model was built; allocated memory on a GPU. Exit status 1 if a loss or a gradient is not finite.
"""

import argparse
import json
import math
import multiprocessing
import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch

from ulzoo.files.atomic import write_text
from ulzoo.model.contract import STAGES, Stage
from ulzoo.model.losses import StageLoss
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.memory import step_memory
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.runs.export import versions
from ulzoo.runtime.devices import pick_device
from ulzoo.training.optimizers import build_ema, build_optimizer


def one_step(name: str, stage: Stage, batch: int, device: torch.device) -> dict[str, Any]:
    """Loss and gradient norm of one step, its duration in seconds and its peak memory in bytes."""
    spec = load_spec(name)
    before = resident()
    model = compile_model(spec, device)
    parameters = model.prepare(stage)
    networks = torch.nn.ModuleDict({part: getattr(model, part) for part in STAGES[stage]})
    optimizer = build_optimizer(networks, getattr(spec.train, stage))
    average = build_ema(networks, getattr(spec.train, stage))
    x = torch.rand(batch, *model.contract.shape, device=device) * 2 - 1
    started = time.perf_counter()
    loss = StageLoss(model, stage)(x)["loss"]
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    average.update(networks, 0)
    values = {"loss": loss.item(), "grad_norm": norm.item()}
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident() - before
    return {"stage": stage, **values, "seconds": time.perf_counter() - started, "peak_bytes": peak}


def resident() -> int:
    """Peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device, summary, rows = pick_device(arguments.device), summarize(load_spec(arguments.spec)), []
    for stage in STAGES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(one_step, (arguments.spec, stage, arguments.batch, device))
        row["estimate_bytes"] = step_memory(load_spec(arguments.spec), stage, device, bf16=False).peak(arguments.batch)
        row["training_gflops"] = summary.training_flops(stage) * arguments.batch / 1e9
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.out:
        content = {"spec": arguments.spec, "batch": arguments.batch, "device": device.type, "versions": versions()}
        write_text(arguments.out, json.dumps({**content, "stages": rows}, indent=1) + "\n")
    raise SystemExit(not all(math.isfinite(row["loss"] + row["grad_norm"]) for row in rows))


if __name__ == "__main__":
    main()
