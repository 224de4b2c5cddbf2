"""The distilled decoder beside its teacher: PSNR, Fréchet distance and time by the number of steps, and pictures.

    python -m benchmarks distill MODEL [--images 512] [--steps 1,2,4,8,16,32] [--device cpu] [--threads 1]

Decodes the same z_0 of validation images with the same noise by the distilled decoder in each of its step counts, and
by the decoder it comes from with the samplers DDPM and DDIM. The distance is that of reconstructions from the same
images, of the features of EfficientNet-Lite0: it is NOT FID. Time is measured in rounds, of 16 images. Writes
distill_MODEL.json and .png, and pictures. The bars, relative to the teacher's best setting of each metric: in one
step at most 1.25 times the distance and 1 dB less, in two 1.05 times and 0.5 dB, in four no worse.
"""

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import by_turns, parser, prepare, publish
from benchmarks.pictures import save_figure, save_picture
from benchmarks.sampling import with_sampler
from ulzoo.data import in_order
from ulzoo.evaluation.features.images import ImageFeatures, efficientnet_lite0
from ulzoo.evaluation.frechet import FeatureStatistics, frechet_distance
from ulzoo.media.pixels import psnr, to_uint8
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import open_model
from ulzoo.registry.compile import open_source
from ulzoo.visualization.image_grid import GridRow, grid

BATCH, TIMED, DRAWN = 64, 16, 12
SAMPLERS = ("ddpm", "ddim")
BARS = {1: (1.25, 1.0), 2: (1.05, 0.5), 4: (1.0, 0.0)}
Setting = tuple[str, str, int]  # network, sampler, steps


def decode(model: UnifiedLatents, z_0: Tensor, setting: Setting) -> Tensor:
    """Decode with a fixed seed; the teacher with a sampler of our choice."""
    (network, sampler, steps), contract = setting, model.contract
    if network == "decoder":
        with_sampler(model, "decoder", sampler, steps)
    try:
        generator = torch.Generator(z_0.device).manual_seed(0)
        return model.decode(z_0, network=network, steps=steps, generator=generator)
    finally:
        model.contract = contract


def statistics(features: ImageFeatures, x: Tensor) -> FeatureStatistics:
    result = FeatureStatistics(features.dimension)
    for part in x.split(BATCH):
        result.add(features(to_uint8(part))[0])
    return result


def measure(model: UnifiedLatents, x: Tensor, settings: list[Setting], options: argparse.Namespace) -> dict[str, Any]:
    """Metrics and seconds per image of every setting, and the reconstructions of the first images."""
    features = efficientnet_lite0(model.device)
    real = statistics(features, x)
    generator = torch.Generator(model.device).manual_seed(0)
    z_0 = model.noise_latents(model.encode(x, generator=generator), generator=generator)
    rows, pictures = [], {}
    for setting in settings:
        decoded = torch.cat([decode(model, part, setting) for part in z_0.split(BATCH)])
        metrics = {
            "psnr_db": psnr(decoded, x).mean().item(),
            "frechet": frechet_distance(statistics(features, decoded), real),
        }
        rows.append(dict(zip(("network", "sampler", "steps"), setting, strict=True)) | metrics)
        pictures[setting] = decoded[:DRAWN]
        print(f"{setting}: {metrics['psnr_db']:.2f} dB, distance {metrics['frechet']:.1f}", flush=True)
    sides = {str(i): lambda s=s: decode(model, z_0[:TIMED], s) for i, s in enumerate(settings)}
    seconds = by_turns(sides, model.device, options.rounds)
    for i, row in enumerate(rows):
        row["milliseconds_per_image"] = 1000 * median(seconds[str(i)]) / TIMED
    return {"rows": rows, "pictures": pictures, "distance": features.protocol}


def best(rows: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The teacher's row with the best value of a metric."""
    teacher = [row for row in rows if row["network"] == "decoder"]
    return max(teacher, key=lambda row: row[metric] * (1 if metric == "psnr_db" else -1))


def compare(rows: list[dict[str, Any]], teacher_setting: dict[str, Any]) -> list[dict[str, Any]]:
    """For each step count of the student: distance and PSNR relative to the teacher's best, and the speedup."""
    results = []
    for row in rows:
        if row["network"] == "distilled":
            ratio = row["frechet"] / best(rows, "frechet")["frechet"]
            decibels = row["psnr_db"] - best(rows, "psnr_db")["psnr_db"]
            speedup = teacher_setting["milliseconds_per_image"] / row["milliseconds_per_image"]
            bar = BARS.get(row["steps"])
            met = bar and (ratio <= bar[0] and decibels >= -bar[1])
            results.append(
                {"steps": row["steps"], "frechet": ratio, "psnr_db": decibels, "speedup": speedup, "met": met}
            )
    return results


def draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = {"psnr_db": "PSNR, dB", "frechet": "Fréchet distance, EfficientNet-Lite0 (not FID)"}
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    series = list(dict.fromkeys((row["network"], row["sampler"]) for row in rows))
    for axis, metric in zip(axes, labels, strict=True):
        for network, sampler in series:
            points = [row for row in rows if (row["network"], row["sampler"]) == (network, sampler)]
            name = "distilled" if network == "distilled" else f"decoder, {sampler.upper()}"
            axis.plot(
                [row["milliseconds_per_image"] for row in points], [row[metric] for row in points], "o-", label=name
            )
            for row in points:
                axis.annotate(str(row["steps"]), (row["milliseconds_per_image"], row[metric]), fontsize=7)
        axis.set_xscale("log")
        axis.set_xlabel("milliseconds per image (numbers: steps)")
        axis.set_title(labels[metric], fontsize=9)
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path.with_suffix(".png"), dpi=130)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("model", help="a model with a distilled decoder and its teacher")
    arguments.add_argument("--images", type=int, default=512)
    arguments.add_argument("--steps", default="1,2,4,8,16,32", help="step counts of the teacher")
    options = arguments.parse_args()
    device = prepare(options)
    export = open_model(options.model, device)
    model, counts = export.model, [int(steps) for steps in options.steps.split(",")]
    source = open_source(export.spec, "val")
    x = torch.cat([batch["x"] for batch in in_order(source, BATCH, min(options.images, len(source)))]).to(device)
    own = model.contract.sampling["decoder"]
    counts = sorted({*counts, own.steps})
    _, few = model.select_decoder("distilled")
    settings = [("distilled", few.sampler, steps) for steps in model.contract.distilled_steps]
    settings += [("decoder", sampler, steps) for sampler in dict.fromkeys((*SAMPLERS, own.sampler)) for steps in counts]
    results = measure(model, x, settings, options)
    rows, pictures = results["rows"], results.pop("pictures")
    chosen = next(
        row for row in rows if (row["network"], row["sampler"], row["steps"]) == ("decoder", own.sampler, own.steps)
    )
    comparison = compare(rows, chosen)
    for row in comparison:
        print(
            f"distilled, {row['steps']} steps: {row['frechet']:.3f} times the teacher's best distance, "
            f"{row['psnr_db']:+.2f} dB, {row['speedup']:.1f} times as fast as the spec's {own.steps} steps: "
            f"{'met' if row['met'] else 'missed'}"
        )
    name = f"distill_{export.spec.name}"
    content = {"spec": export.spec.name, "spec_hash": export.spec.hash, "images": len(x), "bars": comparison, **results}
    publish(name, content, device, options.out)
    draw(rows, options.out / name, f"{export.spec.name}: {len(x)} validation images")
    shown: list[GridRow] = [("originals", x[:DRAWN])]
    shown += [
        (f"distilled, {steps}", pictures["distilled", few.sampler, steps]) for steps in model.contract.distilled_steps
    ]
    finest = best(rows, "frechet")
    teacher = "decoder", finest["sampler"], finest["steps"]
    shown.append((f"decoder, {finest['sampler'].upper()}, {finest['steps']}", pictures[teacher]))
    save_picture(grid(shown), options.out / f"{name}_pictures.png")
    return int(not all(row["met"] for row in comparison if row["steps"] in BARS))


if __name__ == "__main__":
    raise SystemExit(main())
