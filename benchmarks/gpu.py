"""Training on a GPU: its share of the matmul peak, compiled over eager, compared with a DiT; memory; batch sizes.

    python -m benchmarks gpu [--device cuda] [--specs ...] [--parts speed,dit,memory,largest] [--steps 40] [--batch N]
                             [--most 1024] [--set KEY=VALUE]... [--out benchmarks/results] [--json]

speed:    both stages as `ulzoo train` runs them, on noise instead of images: loading, loss, optimizer, averages.
          Eager and compiled; images per second, the share of time spent waiting for data, and the FLOPs of our
          summaries over the measured bf16 matmul peak. A batch that does not fit is halved.
dit:      stage 2 on stored latents compared with diffusers' DiTTransformer2DModel of equal FLOPs on the same latents,
          trained as in diffusers' examples.
memory:   peak memory of stage 1 at a batch size of 32, beside the estimate of `ulzoo train --dry-run`.
largest:  the largest batch of each stage, eager, found by doubling up to `--most`.

gpu.json is rewritten after every row, so that an interrupted run keeps its results. Exit status 1 if a bar is missed on
a GPU. On the CPU, with small specs and `--batch`, it only checks the script, and the numbers are meaningless.
"""

import contextlib
import gc
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.diffusers_loop import train_dit
from benchmarks.measuring import machine, parser, prepare, publish
from ulzoo.data.source import DataContract, Sample, Source
from ulzoo.model.contract import Stage
from ulzoo.registry import Spec, load_spec
from ulzoo.registry.compile import compile_model, data_contract
from ulzoo.registry.cost.memory import step_memory
from ulzoo.registry.cost.summary import ModelSummary, summarize
from ulzoo.training.profiling import matmul_peak
from ulzoo.training.trainer import Trainer, TrainerOptions

STAGES: tuple[Stage, ...] = ("latents", "base")
BATCHES = {
    "imagenet512_medium": (32, 128),
    "imagenet512_small": (32, 256),
    "kinetics600_medium": (16, 128),
    "kinetics600_small": (16, 256),
    "emoji64_small": (128, 256),
}
UTILISATION = {("imagenet512_medium", "base"): 0.5, ("imagenet512_medium", "latents"): 0.4}
SMALL, COMPILED, DIT, MEMORY = 0.3, 1.8, 1.3, 0.9
ROWS = 4

Row = dict[str, Any]


class Noise(Source):
    """Sixteen examples of noise, repeated."""

    def __init__(self, contract: DataContract, examples: torch.Tensor, encoded: bool) -> None:
        self.contract, self.examples, self.hflip = contract, examples, False
        self.encoded = encoded

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> Sample:
        label = index % self.contract.num_classes if self.contract.num_classes else -1
        return Sample(self.examples[index % len(self.examples)], label, str(index))


class StepsReached(Exception):
    """The trainer has run the requested number of steps."""


def measure_steps(
    spec: Spec, stage: Stage, device: torch.device, batch: int, steps: int, compiled: bool, encoded: bool = False
) -> Row:
    """Speed and memory of `steps` steps of the trainer; no checkpoint is written.

    Raises:
        torch.OutOfMemoryError: the steps do not fit into memory.
    """
    reset_memory(device)
    overrides = {"batch_size": batch, "steps": 10**9, "checkpoint_every": 10**9, "compile": compiled}
    overrides |= {"log_every": max(1, steps // ROWS), "precision": "bf16", "accumulate": 1}
    config = getattr(spec.train, stage).model_copy(update=overrides)
    model = compile_model(spec, device, pretrained=False)
    generator = torch.Generator().manual_seed(0)
    if encoded:
        examples = torch.randn(16, *model.contract.latent_shape, generator=generator)
    else:
        examples = torch.randint(256, (16, *model.contract.shape), generator=generator, dtype=torch.uint8)
    rows: list[Row] = []

    def on_step(step: int, row: Row | None) -> None:
        rows.extend([row] if row else [])
        if step == steps:
            raise StepsReached

    source = Noise(data_contract(spec), examples, encoded)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StepsReached):
        Trainer(model, stage, config, source, Path(folder), TrainerOptions({}, on_step=on_step)).run()
    rows = rows[1:] or rows  # the first one includes the start of workers and compilation
    return {
        "spec": spec.name,
        "stage": stage,
        "encoded": encoded,
        "compiled": compiled,
        "batch": batch,
        "images_per_second": median(row["images_per_second"] for row in rows),
        "data_wait": median(row["data_wait"] for row in rows),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def reset_memory(device: torch.device) -> None:
    """Free the memory of earlier runs, and reset the peak."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def fitting(spec: Spec, stage: Stage, device: torch.device, batch: int, **options: Any) -> Row:
    """`measure_steps` at this batch, or the largest half, quarter, … of it that fits."""
    while True:
        try:
            return measure_steps(spec, stage, device, batch, **options)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        batch //= 2


def largest(spec: Spec, stage: Stage, device: torch.device, most: int) -> int:
    """The largest batch, as a power of two up to `most`, of which two steps fit; 0 if one example does not."""
    batch = 1
    while batch <= most:
        try:
            measure_steps(spec, stage, device, batch, steps=2, compiled=False)
        except torch.OutOfMemoryError:
            break
        batch *= 2
    return batch // 2


def first_stage(spec: Spec) -> str:
    """The keys of stage 1; specs that share them are measured only once."""
    keys = spec.to_dict()
    return json.dumps([keys[key] for key in ("data", "latent", "conditioning", "encoder", "prior", "decoder")])


def speed(spec: Spec, summary: ModelSummary, stage: Stage, device: torch.device, options: Any, top: float) -> list[Row]:
    """Rows of a stage, eager and compiled, with the share of the peak."""
    rows = []
    for compiled in (False, True):
        row = fitting(spec, stage, device, batch_of(spec, stage, options), steps=options.steps, compiled=compiled)
        row["gflops_of_an_image"] = summary.training_flops(stage) / 1e9
        row["of_peak"] = row["images_per_second"] * summary.training_flops(stage) / top
        rows.append(row)
    return rows


def beside_dit(spec: Spec, summary: ModelSummary, device: torch.device, options: Any, top: float) -> list[Row]:
    """Rows of our base on latents and of a DiT of equal FLOPs, eager and compiled."""
    rows = []
    batch, flops = batch_of(spec, "base", options), summary.flops["base"]
    for compiled in (False, True):
        row = fitting(spec, "base", device, batch, steps=options.steps, compiled=compiled, encoded=True)
        row |= {"forward_flops": flops, "of_peak": row["images_per_second"] * 3 * flops / top}
        reset_memory(device)
        other = train_dit(summary.latent, flops, row["batch"], options.steps, ROWS, compiled, device)
        other["of_peak"] = other["images_per_second"] * 3 * other["forward_flops"] / top
        rows += [row, {"spec": spec.name, "stage": "base", "compiled": compiled, "of": "diffusers DiT", **other}]
    return rows


def batch_of(spec: Spec, stage: Stage, options: Any) -> int:
    config = getattr(spec.train, stage)
    return options.batch or BATCHES.get(spec.name, (config.batch_size,) * 2)[STAGES.index(stage)]


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--specs", default=",".join(BATCHES))
    arguments.add_argument("--parts", default="speed,dit,memory,largest")
    arguments.add_argument("--steps", type=int, default=40)
    arguments.add_argument("--batch", type=int, help="batch size of both stages; default: suitable for an H200")
    arguments.add_argument("--most", type=int, default=1024)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = arguments.parse_args()
    device = prepare(options)
    top = matmul_peak(device, torch.bfloat16)
    print(f"{machine(device)['device']}: {top / 1e12:.3g} TFLOP/s of bf16 products", flush=True)
    parts = options.parts.split(",")
    results: dict[str, Any] = {"peak_teraflops": top / 1e12, **{part: [] for part in parts}}

    def keep(part: str, rows: list[Row]) -> None:
        results[part] += rows
        for row in rows:
            print(part, json.dumps(row), flush=True)
        publish("gpu", {**results, "claims": claims(results)}, device, options.out)

    seen: dict[str, str] = {}
    for name in options.specs.split(","):
        spec = load_spec(name, options.set)
        summary = summarize(spec)
        same = seen.setdefault(first_stage(spec), name)
        stages = STAGES if same == name else STAGES[1:]
        for stage in stages:
            if "speed" in parts:
                keep("speed", speed(spec, summary, stage, device, options, top))
            if "largest" in parts:
                batch = largest(spec, stage, device, options.most)
                keep("largest", [{"spec": name, "stage": stage, "batch": batch, "tried_up_to": options.most}])
        if "memory" in parts and same == name:
            row = measure_steps(spec, "latents", device, options.batch or 32, 3, compiled=False)
            estimated = step_memory(spec, "latents", device, bf16=True).peak(row["batch"])
            keep("memory", [row | {"estimated_bytes": estimated}])
        if "dit" in parts and len(spec.latent.downsample) == 2:
            keep("dit", beside_dit(spec, summary, device, options, top))
    missed = [claim for claim in claims(results) if not claim["met"]]
    for claim in claims(results):
        print(f"{claim['what']}: {claim['value']:.3g}, bar {claim['bar']}{'' if claim['met'] else ', missed'}")
    return int(device.type == "cuda" and bool(missed))


def claims(results: dict[str, Any]) -> list[Row]:
    """The bars, with the measured values."""
    values = []
    speeds = {(row["spec"], row["stage"], row["compiled"]): row for row in results.get("speed", [])}
    for (name, stage, compiled), row in speeds.items():
        if not compiled:
            continue
        bar = UTILISATION.get((name, stage), SMALL)
        values.append((f"{name}, {stage}: share of the peak", row["of_peak"], bar))
        eager = speeds[name, stage, False]["images_per_second"]
        values.append((f"{name}, {stage}: compiled over eager", row["images_per_second"] / eager, COMPILED))
    for row in results.get("memory", []):
        if row["peak_bytes"]:
            smaller, larger = sorted((row["peak_bytes"], row["estimated_bytes"]))
            values.append((f"{row['spec']}, stage 1: memory and its estimate", smaller / larger, MEMORY))
    rows = results.get("dit", [])
    for ours, theirs in zip(rows[0::2], rows[1::2], strict=True):
        if ours["compiled"]:
            eager = next(row for row in rows if row["spec"] == ours["spec"] and "of" in row and not row["compiled"])
            per_flop = theirs["forward_flops"] / ours["forward_flops"]
            for rival, how in ((eager, "as documented"), (theirs, "compiled")):
                value = ours["images_per_second"] / rival["images_per_second"] / per_flop
                values.append((f"{ours['spec']}, base: of the speed of a DiT of equal FLOPs, {how}", value, DIT))
    return [{"what": what, "value": value, "bar": bar, "met": value >= bar} for what, value, bar in values]


if __name__ == "__main__":
    sys.exit(main())
