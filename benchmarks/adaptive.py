"""The adaptive schedule against the cosine: variance of the base's gradient and its rate at equal steps.

    python -m benchmarks adaptive [--steps 550] [--examples 2048] [--device cpu] [--threads 1] [--out FOLDER]

Trains the base of `emoji32_tiny` with both schedules on the frozen latents of the released model, from equal weights,
on the same images and noise, and measures both models' rates on the same draws. The variance is that of the gradient of
one training example. Examples at evenly spaced times measure it for both densities at once, since a draw counts as
density times the square of its weight, 1/density. The bars: at most 0.9 times the cosine's variance at the weights of
either model, and a rate that is at most half a standard error higher.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import parser, prepare, publish
from ulzoo.data import in_order
from ulzoo.diffusion import AdaptiveSchedule, expand_like
from ulzoo.model.conditioning import Conditions
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import load_spec, open_model
from ulzoo.registry.compile import open_source
from ulzoo.registry.runs.train import RunOptions, train

MODEL = "emoji32_tiny"
SCHEDULES = {"cosine": "{kind: cosine}", "adaptive": "{kind: adaptive}"}
VARIANCE_BAR, RATE_BAR = 0.9, 0.5


def run(schedule: str, folder: Path, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The metrics of a base trained with a schedule, and its model."""
    frozen = "[encoder, prior, decoder]"
    spec = load_spec(
        MODEL,
        [
            f"init={{model: {MODEL}, parts: {frozen}, freeze: {frozen}}}",
            "train.latents=null",
            f"base.schedule={SCHEDULES[schedule]}",
            f"train.base.steps={options.steps}",
        ],
    )
    result = train(spec, folder / schedule, RunOptions(device=device, open_model=open_model))
    assert result is not None
    figures = {key: value for key, value in result.results["figures"].items() if key.startswith("base_")}
    return {"figures": figures, "model": open_model(str(folder / schedule), device).model}


def gradients(model: UnifiedLatents, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The times of `count` examples, evenly spaced, the squared norms of their gradients, and the mean gradient."""
    assert model.base is not None
    base, diffusion, device = model.base, model.base.diffusion, model.device
    parameters = model.prepare("base")
    batch = next(in_order(open_source(model.config, "train"), 3061))
    generator = torch.Generator(device).manual_seed(0)
    order = torch.randperm(len(batch["x"]), generator=torch.Generator().manual_seed(0))
    t = (torch.arange(count, device=device) + torch.rand(count, generator=generator, device=device)) / count
    squares, mean = torch.zeros(count, device=device), [torch.zeros_like(parameter) for parameter in parameters]
    for i in range(count):
        row = order[i % len(order)].item()
        with torch.no_grad():
            z = model.posterior(batch["x"][row : row + 1].to(device)).mean
        logsnr, noise = diffusion.schedule.logsnr(t[i : i + 1]), torch.randn(z.shape, generator=generator).to(z)
        conditions = model.latent_conditions(base, 1, Conditions(batch["label"][row : row + 1]))
        x_t = diffusion.add_noise(z, logsnr=logsnr, noise=noise)
        x_hat = diffusion.to_x(base.predict(x_t, logsnr, conditions), x_t=x_t, logsnr=logsnr)
        weight = -diffusion.schedule.dlogsnr_dt(t[i : i + 1]) * base.weighting.times_snr(logsnr) / 2
        nats = (expand_like(weight, z) * (z - x_hat).square()).sum()
        for gradient, total in zip(torch.autograd.grad(nats, parameters), mean, strict=True):
            squares[i] += gradient.square().sum()
            total += gradient / count
    return t, squares, torch.cat([part.flatten() for part in mean])


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=550)
    options.add_argument("--examples", type=int, default=2048)
    options = options.parse_args()
    device = prepare(options)
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: run(name, Path(folder), options, device) for name in SCHEDULES}
    schedule = runs["adaptive"]["model"].base.schedule
    assert isinstance(schedule, AdaptiveSchedule)
    density = schedule.density()
    variances = {}
    for name, trained in runs.items():
        t, squares, mean = gradients(trained["model"], options.examples)
        weight, noise = 1 / density[(t * len(density)).long()], mean.square().sum() - squares.mean() / len(t)
        cosine, adaptive = ((factor * squares).mean() - noise for factor in (1.0, weight))
        variances[name] = {"cosine": cosine.item(), "adaptive": adaptive.item(), "ratio": (adaptive / cosine).item()}
        print(f"weights of {name}: variance {adaptive:.4g} / {cosine:.4g} = {adaptive / cosine:.3f}")
    rates = {name: trained["figures"]["base_bits_per_pixel"] for name, trained in runs.items()}
    excess = (rates["adaptive"] - rates["cosine"]) / runs["cosine"]["figures"]["base_bits_per_pixel_se"]
    print(f"rate {rates['adaptive']:.4f}, cosine {rates['cosine']:.4f}: {excess:+.2f} standard errors")
    content = {
        "model": MODEL,
        "steps": options.steps,
        "examples": options.examples,
        "figures": {name: trained["figures"] for name, trained in runs.items()},
        "gradient_variance": variances,
        "excess_rate_in_standard_errors": excess,
        "density": density.tolist(),
    }
    publish("adaptive", content, device, options.out)
    return int(excess > RATE_BAR or any(row["ratio"] > VARIANCE_BAR for row in variances.values()))


if __name__ == "__main__":
    raise SystemExit(main())
