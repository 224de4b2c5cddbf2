"""What a GPU must show: the specs train on it in bf16, compiled and not, and how fast.

    python benchmarks/gpu.py [--device cuda] [--steps 300] [--specs emoji32_tiny,emoji64_small] [--out FILE.json]

For each spec, stage 1 and stage 2 are trained for a few steps, eager and with torch.compile; images/s is the median
over the logged rows without the first, side by side in one process. Run on the CPU, it checks the script itself.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from ulzoo.registry import load_spec
from ulzoo.registry.device import pick_device
from ulzoo.registry.export import versions
from ulzoo.registry.run import train
from ulzoo.training.metrics import read_rows


def measure(name: str, steps: int, device: torch.device, compiled: bool) -> dict[str, Any]:
    """Figures after `steps` steps of each stage, images/s of both, and the peak of allocated memory."""
    log_every = max(1, steps // 6)
    overrides = [
        f"train.{stage}.{key}={value}"
        for stage in ("latents", "base")
        for key, value in (("steps", steps), ("log_every", log_every), ("warmup_steps", 1), ("compile", compiled))
    ]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder:
        spec = load_spec(name, [*overrides, "train.latents.prior_warmup_steps=0"])
        results = train(spec, Path(folder), device=device).results
        rows = read_rows(Path(folder) / "metrics.jsonl")
    speed = {
        stage: statistics.median([row["images_per_second"] for row in rows if row["stage"] == stage][1:])
        for stage in ("latents", "base")
    }
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"spec": name, "compiled": compiled, "images_per_second": speed, "peak_bytes": peak, **results["figures"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--specs", default="emoji32_tiny,emoji64_small")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    rows = []
    for spec in arguments.specs.split(","):
        for compiled in (False, True):
            rows.append(measure(spec, arguments.steps, device, compiled))
            print(json.dumps(rows[-1]), flush=True)
        eager, fast = rows[-2]["images_per_second"], rows[-1]["images_per_second"]
        print(f"{spec}: compiled over eager", {stage: round(fast[stage] / eager[stage], 2) for stage in eager})
    if arguments.out:
        arguments.out.write_text(json.dumps({"device": name, **versions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
