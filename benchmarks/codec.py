"""The codec beside its bound and beside general codecs: bits, PSNR, distances, prefixes, time.

    python -m benchmarks codec [--images N] [--out FOLDER]

Validation emoji at 32×32 and the released emoji32_tiny, whose domain they are; JPEG, WebP and AVIF are for all images.
At this size their headers are most of their files, so sizes are given with and without headers (JPEG: all before the
scan; WebP: 30 bytes; AVIF: all but the `mdat` box). Exit status 1 if the default rule needs more than 1.1 × the ELBO
bound without headers, or is more than 0.6 dB below the true z_0.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.measuring import parser, prepare, publish, timed
from benchmarks.pictures import save_figure
from ulzoo.coding.stream import read_header
from ulzoo.data import in_order
from ulzoo.data.images.preprocess import to_pil
from ulzoo.diffusion import IndependentNoise
from ulzoo.evaluation.features.images import efficientnet_lite0
from ulzoo.evaluation.features.loading import load_lpips
from ulzoo.evaluation.frechet import FeatureStatistics, frechet_distance
from ulzoo.media.pixels import from_uint8, psnr, to_uint8
from ulzoo.model.contract import Sampling
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import open_source
from ulzoo.registry.zoo.catalogue import open_model
from ulzoo.visualization.matplotlib_figure import new_figure

RULES = ("projection", "poisson")
PREFIXES = (16, 24, 32, 40, 48, 64, 80, 96, 128, 224)  # bytes
PREFIX_IMAGES = 48
QUALITIES = {"JPEG": (1, 5, 10, 15, 20, 30, 50), "WEBP": (0, 5, 10, 20, 40, 60, 80), "AVIF": (0, 5, 10, 20, 40, 60)}
MAX_RATIO, MAX_LOSS = 1.1, 0.6


def noise(n: int, purpose: int) -> IndependentNoise:
    """Noise for n images; each purpose has a number and streams of its own."""
    return IndependentNoise([purpose << 20 | i for i in range(n)], purpose)


class Distances:
    """PSNR, LPIPS and Fréchet distance of images to the originals."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.lpips, self.features = x, load_lpips("st_alex"), efficientnet_lite0()
        self.original = self.statistics(x)

    def statistics(self, x: Tensor) -> FeatureStatistics:
        collected = FeatureStatistics(self.features.dimension)
        for part in x.split(64):
            collected.add(self.features(to_uint8(part))[0])
        return collected

    @torch.no_grad()
    def __call__(self, y: Tensor) -> dict[str, float]:
        pairs = zip(y.split(64), self.x.split(64), strict=True)
        return {
            "psnr_db": psnr(y, self.x).mean().item(),
            "lpips_st_alex": torch.cat([self.lpips(a, b) for a, b in pairs]).mean().item(),
            "fd_efficientnet_lite0": frechet_distance(self.statistics(y), self.original),
        }


def latent_figures(model: UnifiedLatents, z_0: Tensor) -> dict[str, float]:
    """Mean, variance, and the bits that the prior assigns to z_0 (as if it was clean)."""
    assert model.prior is not None
    with torch.no_grad():
        alpha = math.sqrt(1 / (1 + math.exp(-model.contract.latent_logsnr)))
        nats = model.prior.rate((z_0 / alpha).repeat(8, 1, 1, 1), generator=noise(len(z_0), 1).repeat(8))
    return {
        "mean": z_0.mean().item(),
        "variance": z_0.var().item(),
        "prior_bits_per_pixel": nats.mean().item() / math.log(2) / model.contract.pixels,
    }


def general_codec(name: str, quality: int, x: Tensor) -> tuple[list[int], list[int], Tensor]:
    """Sizes in bytes with and without headers, and the images that come back."""
    sizes, contents, images = [], [], []
    for image in to_pil(x):
        buffer = io.BytesIO()
        options: dict[str, Any] = {"JPEG": {"optimize": True}, "WEBP": {"method": 6}, "AVIF": {"speed": 0}}[name]
        image.save(buffer, name, quality=quality, **options)
        data = buffer.getvalue()
        sizes.append(len(data))
        contents.append(content_size(name, data))
        decoded = Image.open(io.BytesIO(data)).convert("RGB")
        pixels = torch.frombuffer(bytearray(decoded.tobytes()), dtype=torch.uint8)
        images.append(from_uint8(pixels.reshape(decoded.height, decoded.width, 3).permute(2, 0, 1)))
    return sizes, contents, torch.stack(images)


def content_size(name: str, data: bytes) -> int:
    """Bytes of a file without its header."""
    if name == "JPEG":
        return len(data) - data.index(b"\xff\xda")
    if name == "WEBP":
        return len(data) - 30
    start = data.index(b"mdat") - 4
    return int.from_bytes(data[start : start + 4], "big") - 8


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def measure_rule(model: UnifiedLatents, x: Tensor, rule: str, distances: Distances) -> dict[str, Any]:
    streams = model.compress(x, rule=rule)
    headers = [read_header(stream) for stream in streams]
    n, pixels = len(x), model.contract.pixels
    payloads = [len(stream) - start for stream, (_, start) in zip(streams, headers, strict=True)]
    first = streams[:PREFIX_IMAGES]
    z_0 = model.decompress_latents(streams)
    y = torch.cat([model.decode(z, generator=noise(n, 3).part(rows)) for rows, z in batches(model, z_0)])
    return {
        "bits_per_pixel": 8 * mean([len(stream) for stream in streams]) / pixels,
        "bits_per_pixel_without_header": 8 * mean(payloads) / pixels,
        "header_bytes": mean([start for _, start in headers]),
        "steps": mean([header.plan.steps for header, _ in headers]),
        **distances(y),
        "latent": latent_figures(model, z_0),
        "prefixes": [
            {
                "bytes": mean([min(size, len(stream)) for stream in first]),
                "psnr_db": psnr(model.decompress(first, max_bits=8 * size), x[:PREFIX_IMAGES]).mean().item(),
            }
            for size in PREFIXES
        ],
    }


def batches(model: UnifiedLatents, z_0: Tensor) -> list[tuple[slice, Tensor]]:
    return [(rows, z_0[rows]) for rows in model.contract.batches(len(z_0), None)]


def relative_time(model: UnifiedLatents, x: Tensor, steps: int, device: torch.device) -> dict[str, float]:
    """Time of compressing and decompressing a batch, divided by that of sampling with as many steps of the base."""
    part = x[:64]
    streams = model.compress(part)
    sampling = Sampling("ddpm", steps)

    def sample() -> None:
        model.decode(model.sample_latents(len(part), sampling=sampling))

    jobs: dict[str, Callable[[], object]] = {
        "sample": sample,
        "compress": lambda: model.compress(part),
        "decompress": lambda: model.decompress(streams),
    }
    seconds = {name: min(timed(work, device) for _ in range(3)) for name, work in jobs.items()}
    return {name: seconds[name] / seconds["sample"] for name in ("compress", "decompress")}


def plot(content: dict[str, Any], path: Any) -> None:
    figure = new_figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for rule, colour in zip(RULES, ("#0b6fb8", "#c2410c"), strict=True):
        row = content["rules"][rule]
        header = row["header_bytes"]
        rates = [8 * (point["bytes"] - header) / content["pixels"] for point in row["prefixes"]]
        axes.plot(rates, [p["psnr_db"] for p in row["prefixes"]], "o-", ms=3, color=colour, label=f"prefixes, {rule}")
    for name, rows in content["general"].items():
        rates = [row["bits_per_pixel_without_header"] for row in rows]
        axes.plot(rates, [row["psnr_db"] for row in rows], "s--", ms=3, lw=1, label=f"{name}, without its header")
    axes.plot([content["bound_bits_per_pixel"]], [content["true_z_0"]["psnr_db"]], "k*", ms=10, label="ELBO, true z_0")
    axes.set(xlabel="bits/pixel without headers", ylabel="PSNR in dB", xlim=(0, 2.5), ylim=(8, 32))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    figure.suptitle(f"emoji32_tiny, {content['images']} validation emoji", fontsize="medium")
    save_figure(figure, path.with_suffix(".png"), dpi=150)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=327, help="number of validation images")
    options = arguments.parse_args()
    device = prepare(options)
    export = open_model("released:emoji32_tiny")
    model = export.model
    x = next(in_order(open_source(export.spec, "val"), options.images))["x"]
    n, pixels = len(x), model.contract.pixels
    distances = Distances(x)
    rates = [
        model.rate(x[rows], samples=32, generator=noise(n, 0).part(rows)) for rows in model.contract.batches(n, None)
    ]
    bound = torch.cat(rates).mean().item() / pixels
    z_0 = model.noise_latents(model.encode(x), generator=noise(n, 2))
    y = torch.cat([model.decode(z, generator=noise(n, 3).part(rows)) for rows, z in batches(model, z_0)])
    true = {**distances(y), "latent": latent_figures(model, z_0)}
    print("bound", bound, "true z_0", true, flush=True)
    rules = {}
    for rule in RULES:
        rules[rule] = row = measure_rule(model, x, rule, distances)
        row["ratio_to_bound"] = row["bits_per_pixel"] / bound
        row["ratio_to_bound_without_header"] = row["bits_per_pixel_without_header"] / bound
        print(rule, row, flush=True)
    general: dict[str, list[dict[str, Any]]] = {}
    for name, qualities in QUALITIES.items():
        general[name] = []
        for quality in qualities:
            sizes, contents, decoded = general_codec(name, quality, x)
            row = {
                "quality": quality,
                "bits_per_pixel": 8 * mean(sizes) / pixels,
                "bits_per_pixel_without_header": 8 * mean(contents) / pixels,
                "psnr_db": psnr(decoded, x).mean().item(),
            }
            general[name].append(row)
            print(name, row)
    target = rules[RULES[0]]["bits_per_pixel_without_header"]
    equal_bytes = {
        name: min(rows, key=lambda row: abs(row["bits_per_pixel_without_header"] - target))
        for name, rows in general.items()
    }
    for name, row in equal_bytes.items():
        row |= distances(general_codec(name, row["quality"], x)[2])
        print("without headers nearest to ours", name, row)
    default = rules[RULES[0]]
    content = {
        "images": n,
        "pixels": pixels,
        "bound_bits_per_pixel": bound,
        "true_z_0": true,
        "rules": rules,
        "general": general,
        "nearest_without_headers": equal_bytes,
        "time_relative_to_sampling": relative_time(model, x, round(default["steps"]), device),
    }
    path = publish("codec", content, device, options.out)
    plot(content, path)
    print(path)
    loss = true["psnr_db"] - default["psnr_db"]
    return int(default["ratio_to_bound_without_header"] > MAX_RATIO or loss > MAX_LOSS)


if __name__ == "__main__":
    raise SystemExit(main())
