"""The best learning rate by width, under µP and the standard parametrisation: the base of emoji32_tiny.

    python -m benchmarks mup [--widths 96,192,384] [--rates 1e-3,2e-3,...] [--steps 160] [--device cpu] [--threads 1]

Trains two blocks on 4×4 patches of the latents of the released emoji32_tiny, encoded once, with AdamW, and measures the
loss of its averaged weights on validation latents. µP's proxy is the first width, at which both parametrisations are
the same. Points that the results contain already are not trained again, unless with --afresh. Writes mup.json and
mup.png. The bar: under µP the best learning rates of all widths are within a factor of two.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import parser, prepare, publish
from benchmarks.pictures import save_figure
from ulzoo.data import Latents, in_order
from ulzoo.diffusion import ExampleNoise
from ulzoo.model.conditioning import Conditions
from ulzoo.model.losses import base_loss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model, compile_proxy, open_source
from ulzoo.registry.runs.encode import EncodeOptions, encode
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.zoo.catalogue import open_model
from ulzoo.runtime.seeds import derive_seed
from ulzoo.training.monitoring import NonFiniteLoss
from ulzoo.training.trainer import Trainer, TrainerOptions

MODEL, HEAD_WIDTH, DRAWS, BAR = "emoji32_tiny", 48, 4, 2.0
TITLES = {"mup": "µP", "standard": "standard parametrisation"}


def encode_images(folder: Path, device: torch.device) -> None:
    """Latents of training and validation images by the released model."""
    loaded = open_model(MODEL, device)
    for split in ("train", "val"):
        source = open_source(loaded.spec, split)
        encode(loaded.model, loaded.spec, source, folder, split, options=EncodeOptions("float32"))


def spec_of(kind: str, width: int, rate: float, options: argparse.Namespace) -> Spec:
    backbone = f"{{kind: vit, patch: 2, width: {width}, depth: 2, heads: {width // HEAD_WIDTH}, positions: learned}}"
    training = {"optimizer": "adamw", "lr": rate, "steps": options.steps, "batch_size": options.batch}
    training |= {"warmup_steps": options.steps // 10, "ema": 0.95, "log_every": options.steps, "precision": "fp32"}
    training |= {"checkpoint_every": options.steps, "seed": options.seed}
    overrides = [f"base.backbone={backbone}", *(f"train.base.{key}={value}" for key, value in training.items())]
    if kind == "mup":
        proxy = f"{{base: {{width: {options.widths[0]}, heads: {options.widths[0] // HEAD_WIDTH}}}}}"
        overrides.append(f"train.base.parametrisation={{kind: mup, proxy: {proxy}}}")
    return load_spec(MODEL, overrides)


@torch.no_grad()
def validation_loss(model: UnifiedLatents, latents: Latents) -> float:
    """The base's loss, nats per pixel, mean over latents and `DRAWS` draws of noise, which are equal for all models."""
    losses = []
    for draw in range(DRAWS):
        for batch in in_order(latents, len(latents)):
            seeds = [derive_seed(0, "mup", draw, i) for i in range(len(latents))]
            noise = ExampleNoise(seeds, derive_seed(0, "mup", draw), 0, len(seeds), model.device)
            x, labels = batch["x"].to(model.device), batch["label"].to(model.device)
            losses.append(base_loss(model, x, conditions=Conditions(labels), generator=noise, encoded=True).item())
    return sum(losses) / len(losses)


def train_point(spec: Spec, latents: Path, device: torch.device) -> float:
    """The validation loss after training; infinite if it diverges."""
    model = compile_model(spec, device)
    assert spec.train.base is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Latents("train", path=str(latents))
        options = TrainerOptions({}, proxy=compile_proxy(spec, "base"))
        try:
            Trainer(model, "base", spec.train.base, source, Path(folder), options).run()
        except NonFiniteLoss:
            return math.inf
    return validation_loss(model, Latents("val", path=str(latents)))


def points(options: argparse.Namespace) -> list[tuple[str, int, float]]:
    """(parametrisation, width, learning rate), the narrowest models first; at the proxy's width once."""
    kinds = {width: ["mup", "standard"] if width != options.widths[0] else ["mup"] for width in options.widths}
    return [(kind, width, rate) for width in options.widths for kind in kinds[width] for rate in options.rates]


def measure(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    path, rows = options.out / "mup.json", []
    settings = {"model": MODEL, "steps": options.steps, "batch": options.batch, "seed": options.seed}
    settings["proxy"] = options.widths[0]
    if path.exists() and not options.afresh:
        earlier = json.loads(path.read_text("utf-8"))
        rows = earlier["rows"] if {key: earlier.get(key) for key in settings} == settings else []
    done = {(row["parametrisation"], row["width"], row["lr"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for kind, width, rate in points(options):
            if (kind, width, rate) in done:
                continue
            if not any(Path(folder).iterdir()):
                encode_images(Path(folder), device)
            loss = train_point(spec_of(kind, width, rate, options), Path(folder), device)
            rows.append({"parametrisation": kind, "width": width, "lr": rate, "loss": loss})
            print(f"{kind}, width {width}, lr {rate:g}: loss {loss:.5f}", flush=True)
            publish("mup", {**settings, "rows": rows, "best": best_rates(rows)}, device, options.out)
    return rows


def curves(rows: list[dict[str, Any]]) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """(parametrisation, width) -> (learning rate, loss) of its points in order."""
    proxy, result = min(row["width"] for row in rows), {}
    for row in sorted(rows, key=lambda row: row["lr"]):
        for kind in TITLES if row["width"] == proxy else [row["parametrisation"]]:
            result.setdefault((kind, row["width"]), []).append((row["lr"], row["loss"]))
    return result


def best_rate(curve: list[tuple[float, float]]) -> float:
    """The learning rate of the lowest loss: of the parabola over log lr through the lowest point and its neighbours."""
    lowest = min(range(len(curve)), key=lambda i: curve[i][1])
    if lowest in (0, len(curve) - 1) or not all(math.isfinite(loss) for _, loss in curve[lowest - 1 : lowest + 2]):
        return curve[lowest][0]
    (_, left), (rate, middle), (_, right) = curve[lowest - 1 : lowest + 2]
    shift = (left - right) / (left - 2 * middle + right) / 2  # in steps of the grid, between -1/2 and 1/2
    return rate * (curve[lowest + 1][0] / rate) ** shift


def best_rates(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Parametrisation -> width -> best learning rate."""
    best: dict[str, dict[str, float]] = {}
    for (kind, width), curve in sorted(curves(rows).items()):
        best.setdefault(kind, {})[str(width)] = float(f"{best_rate(curve):.3g}")
    return best


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rates = sorted({row["lr"] for row in rows})
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for axis, (kind, title) in zip(axes, TITLES.items(), strict=True):
        for (name, width), curve in sorted(curves(rows).items()):
            if name == kind:
                finite = [(rate, loss) for rate, loss in curve if math.isfinite(loss)]
                (line,) = axis.plot(*zip(*finite, strict=True), "o-", markersize=4, label=f"width {width}")
                axis.axvline(best_rate(curve), color=line.get_color(), linestyle=":", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set_xticks(rates, labels=[f"{rate:g}" for rate in rates])
        axis.set(xlabel="learning rate", title=title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("validation loss, nats/pixel")
    save_figure(figure, folder / "mup.png", dpi=130)
    pyplot.close(figure)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--widths", default="96,192,384", help="the first one is the proxy's")
    arguments.add_argument("--rates", default="1e-3,2e-3,4e-3,8e-3,1.6e-2")
    arguments.add_argument("--steps", type=int, default=160)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--afresh", action="store_true", help="train existing points again")
    options = arguments.parse_args()
    options.widths = [int(width) for width in options.widths.split(",")]
    options.rates = [float(rate) for rate in options.rates.split(",")]
    rows = measure(options, prepare(options))
    draw(rows, options.out)
    ratios = {kind: max(best.values()) / min(best.values()) for kind, best in best_rates(rows).items()}
    print(", ".join(f"{TITLES[kind]}: best learning rates within {ratio:.2f}" for kind, ratio in ratios.items()))
    return int(ratios["mup"] > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
