"""Quality of the samplers by steps: Fréchet distance of samples; Fréchet distance and PSNR of reconstructions.

    python -m benchmarks sampling [--model emoji32_tiny] [--samples 512] [--seeds 1] [--steps 1,2,4,8,16,32,64,128]

Every sampler starts from the same noise. Samples of the base are decoded as in the spec, with the same noise of the
decoder for all; reconstructions are decoded from the same z_0. The distance is of the features of EfficientNet-Lite0:
it is NOT FID. Rows of existing results are not measured again, unless with --afresh. Writes sampling.json and
sampling.png; exit status 1 if DPM-Solver++ at 16 steps is more than 5 % above DDPM at 128.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import parser, prepare, publish
from benchmarks.pictures import save_figure
from ulzoo.data import Source, in_order
from ulzoo.diffusion import SAMPLERS
from ulzoo.evaluation.features.images import ImageFeatures, efficientnet_lite0
from ulzoo.evaluation.frechet import FeatureStatistics, frechet_distance
from ulzoo.media.pixels import psnr, to_uint8
from ulzoo.model.conditioning import Conditions
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import open_source
from ulzoo.registry.zoo.catalogue import open_model
from ulzoo.runtime.devices import autocast, has_bf16
from ulzoo.runtime.seeds import derive_seed

BATCH = 64
LABELS = {"ddpm": "DDPM", "ddim": "DDIM", "dpmpp_2m": "DPM-Solver++(2M)", "dpmpp_2m_sde": "SDE-DPM-Solver++(2M)"}
BAR = 1.05


def seeded(seed: int, what: str, start: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, what, start))


def with_sampler(model: UnifiedLatents, part: str, sampler: str, steps: int) -> None:
    """Set the sampler of a part of the model."""
    sampling = {**model.contract.sampling, part: replace(model.contract.sampling[part], sampler=sampler, steps=steps)}
    model.contract = replace(model.contract, sampling=sampling)


@torch.no_grad()
def base_quality(
    model: UnifiedLatents, features: ImageFeatures, real: FeatureStatistics, labels: Tensor, seed: int
) -> dict[str, Any]:
    """Fréchet distance of samples of these classes from the training images."""
    samples, device = FeatureStatistics(features.dimension), model.device
    unguided = replace(model.contract.sampling["base"], guidance=1.0)
    for start in range(0, len(labels), BATCH):
        conditions = Conditions(labels=labels[start : start + BATCH].to(device))
        generator = seeded(seed, "base", start, device)
        n = len(labels[start : start + BATCH])
        z_0 = model.sample_latents(n, conditions=conditions, sampling=unguided, generator=generator)
        x = model.decode(z_0, generator=seeded(seed, "decoder", start, device))
        samples.add(features(to_uint8(x))[0])
    return {"frechet": frechet_distance(samples, real)}


@torch.no_grad()
def decoder_quality(
    model: UnifiedLatents, features: ImageFeatures, real: FeatureStatistics, source: Source, count: int, seed: int
) -> dict[str, Any]:
    """PSNR of reconstructions by the decoder that is not distilled, and their Fréchet distance from the same images."""
    reconstructions, device, decibels, start = FeatureStatistics(features.dimension), model.device, [], 0
    for batch in in_order(source, BATCH, count):
        x = batch["x"].to(device)
        z_0 = model.noise_latents(model.encode(x), generator=seeded(seed, "latents", start, device))
        decoded = model.decode(z_0, network="decoder", generator=seeded(seed, "decoder", start, device))
        decibels.append(psnr(x, decoded))
        reconstructions.add(features(to_uint8(decoded))[0])
        start = batch["images"]
    return {"psnr_db": torch.cat(decibels).mean().item(), "frechet": frechet_distance(reconstructions, real)}


def statistics(features: ImageFeatures, source: Source, count: int | None = None) -> FeatureStatistics:
    result = FeatureStatistics(features.dimension)
    for batch in in_order(source, BATCH, count):
        result.add(features(to_uint8(batch["x"]))[0])
    return result


def measure(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A row for each part, sampler, number of steps and seed; existing rows are kept."""
    path, rows = options.out / "sampling.json", []
    bf16 = options.bf16 and has_bf16(device)
    settings = {"model": options.model, "samples": options.samples, "precision": "bf16" if bf16 else "fp32"}
    if path.exists() and not options.afresh:
        earlier = json.loads(path.read_text())
        rows = earlier["rows"] if {key: earlier.get(key) for key in settings} == settings else []
    done = {(row["part"], row["sampler"], row["steps"], row["seed"]) for row in rows}
    loaded, features = open_model(options.model, device), efficientnet_lite0(device)
    model, train, val = loaded.model, open_source(loaded.spec, "train"), open_source(loaded.spec, "val")
    labels = torch.tensor([train[i * len(train) // options.samples].label for i in range(options.samples)])
    count, defaults = min(options.samples, len(val)), model.contract
    real: dict[str, FeatureStatistics] = {}
    for steps in options.steps:
        for sampler in options.samplers:
            for part in options.parts:
                for seed in range(options.seeds):
                    if (part, sampler, steps, seed) in done:
                        continue
                    if part not in real:
                        real[part] = statistics(features, *((train,) if part == "base" else (val, count)))
                    model.contract = defaults
                    with_sampler(model, part, sampler, steps)
                    if part == "base":
                        figures = base_quality(model, features, real[part], labels, seed)
                    else:
                        figures = decoder_quality(model, features, real[part], val, count, seed)
                    rows.append({"part": part, "sampler": sampler, "steps": steps, "seed": seed, **figures})
                    print(json.dumps(rows[-1]), flush=True)
                    publish("sampling", {**settings, "distance": features.protocol, "rows": rows}, device, options.out)
    return rows


def mean(rows: list[dict[str, Any]], part: str, sampler: str, steps: int, figure: str) -> float | None:
    values = [row[figure] for row in rows if (row["part"], row["sampler"], row["steps"]) == (part, sampler, steps)]
    return sum(values) / len(values) if values else None


def draw(rows: list[dict[str, Any]], samples: int, folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (("base", "frechet"), ("decoder", "frechet"), ("decoder", "psnr_db"))
    names = {"frechet": "Fréchet distance, EfficientNet-Lite0 (not FID)", "psnr_db": "PSNR, dB"}
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 4), layout="constrained")
    for axis, (part, quantity) in zip(axes, panels, strict=True):
        for sampler in SAMPLERS:
            steps = sorted({row["steps"] for row in rows if (row["part"], row["sampler"]) == (part, sampler)})
            if not steps:
                continue
            values = [mean(rows, part, sampler, count, quantity) for count in steps]
            axis.plot(steps, values, "o-", markersize=3, label=LABELS[sampler])
            if part == "base":
                points = [row for row in rows if (row["part"], row["sampler"]) == (part, sampler)]
                x, y = [row["steps"] for row in points], [row[quantity] for row in points]
                axis.plot(x, y, ".", color="0.6", markersize=2)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        if quantity == "frechet" and axis.lines:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
        axis.set_xlabel("steps")
        axis.set_title(f"{part}: {names[quantity]}", fontsize=9)
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)
    figure.suptitle(
        f"Quality against steps: {samples} samples by the base, validation images by the decoder", fontsize=10
    )
    save_figure(figure, folder / "sampling.png", dpi=130)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="emoji32_tiny")
    arguments.add_argument("--samples", type=int, default=512)
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--steps", default="1,2,4,8,16,32,64,128")
    arguments.add_argument("--samplers", default=",".join(SAMPLERS))
    arguments.add_argument("--parts", default="base,decoder")
    arguments.add_argument("--bf16", action="store_true", help="all networks in bfloat16, if the device has it")
    arguments.add_argument("--afresh", action="store_true", help="measure existing rows again")
    options = arguments.parse_args()
    options.steps = [int(steps) for steps in options.steps.split(",")]
    options.samplers, options.parts = options.samplers.split(","), options.parts.split(",")
    device = prepare(options)
    with autocast("bf16" if options.bf16 else "fp32", device):
        rows = measure(options, device)
    draw(rows, options.samples, options.out)
    ddpm = mean(rows, "base", "ddpm", 128, "frechet")
    distances = {name: mean(rows, "base", name, 16, "frechet") for name in SAMPLERS if name.startswith("dpmpp")}
    if not ddpm or not (ratios := {name: value / ddpm for name, value in distances.items() if value}):
        return 0
    print(", ".join(f"{LABELS[name]} at 16 steps: {ratio:.3f} of DDPM at 128" for name, ratio in ratios.items()))
    return int(min(ratios.values()) > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
