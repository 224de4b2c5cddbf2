"""The paper's claims at a small scale, with three seeds: which are shown, which are refuted, and by how much.

    python -m benchmarks claims [--workers N] [--store runs/claims] [--no-training]

Trains the points of claims_latents.yaml, claims_generation.yaml, claims_longer.yaml, claims_fashion.yaml and
claims_fashion_generation.yaml by `ulzoo sweep`, which continues where it was interrupted, and writes results/claims:
the rows, claims.md and plots. The curve over loss factors on emoji is that of variable_rate.yaml, in
results/variable_rate; bases of two sizes are trained by `python -m benchmarks base_sizes`, latent diffusion by `python
-m benchmarks latent_diffusion`. With --no-training only page and plots are written, from existing rows.
"Errors" are standard deviations over seeds; a claim is shown, or refuted, if intervals of one deviation do not overlap.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from benchmarks.base_sizes import best_rates, distances_by_rate, read_base_sizes
from benchmarks.claims_plot import save_claims_plot
from benchmarks.estimates import PSNR, RATE, Estimate, Finding, Measured, apart, sign
from benchmarks.measuring import RESULTS
from benchmarks.pipelines import (
    DISTANCE,
    FOLDER,
    SAMPLES,
    best_by_first_seed,
    distances_by_weight,
    pipeline_costs,
    read_latent_diffusion,
    training_flops,
)
from benchmarks.sweep import ulzoo
from ulzoo.files.atomic import write_text
from ulzoo.registry.sweeps.store import Store

CURVE = RESULTS / "variable_rate"
SWEEPS = {
    "latents": ("--seeds", "3", "--stage", "latents"),
    "generation": ("--seeds", "3", "--reuse-latents", "--frechet", DISTANCE, "--samples", "1500"),
    "longer": ("--seeds", "1", "--stage", "latents"),
    "fashion": ("--seeds", "3", "--stage", "latents"),
    "fashion_generation": ("--seeds", "3", "--reuse-latents", "--frechet", DISTANCE, "--samples", "5000"),
}
FASHION_FACTORS = ("8", "16", "32")
BASE_RATE = "base_bits_per_pixel"
RECONSTRUCTIONS = f"r{DISTANCE}"
HEADING = """# The paper's claims at a small scale

On emoji at 32² with three seeds; figures are means ± standard deviations over the seeds, on validation images. "Shown"
and "refuted" mean that intervals of one deviation do not overlap. Distances are Fréchet distances on the features of
EfficientNet-Lite0, which are not FID. `python -m benchmarks claims` writes this page.

| claim | here | figures |
|---|---|---|
"""
NOTES = """
(b) is of bases of 800 steps on the latents of the released emoji32_curve, a model of all these rates, whose samples are
decoded by its distilled decoder; the seeds are those of the bases. Least distances are those of a parabola of the
logarithm of the distance over that of the loss factor.

(c) is of models that 400 steps leave far from good, as 8×8 patches need more of them. In longer training, the excess of
bits in (d) shrinks and the loss of PSNR grows; (e) may look different after it too. Latent diffusion in (i) is built
from diffusers' AutoencoderKL and DiT, trained by AdamW to predict the noise (`python -m benchmarks latent_diffusion`,
in fp32); it has the latent shape, classes and batches of Unified Latents, and takes as many FLOPs in each stage.
Adversarial and perceptual losses would change both.

![Rate and PSNR of stage 1, the distance of samples by rate and size of the base, and by pipeline](claims.png)
"""

FASHION_HEADING = """
## On Fashion-MNIST

At 32² with as many steps and three seeds, on 512 of the 10,000 test images; samples are compared with the 60,000
training images.

| claim | here | figures |
|---|---|---|
"""


def loss_factor_and_distances(measured: Measured) -> Finding:
    """(a) with the distances of reconstructions, which were measured apart from the sweep."""
    rows = json.loads((CURVE / "distances.json").read_text(encoding="utf-8"))["rows"]
    distances = [
        Estimate({row["seed"]: row[RECONSTRUCTIONS] for row in rows if row["loss_factor"] == factor}, 0)
        for factor in map(float, measured.factors)
    ]
    finding = loss_factor(measured)
    falling = _is_rising(distances[::-1])
    return Finding(
        f"{finding.claim}, smaller distance of reconstructions",
        finding.verdict if falling and apart(distances[-1], distances[0]) == "shown" else "open",
        f"{finding.evidence}; distance {distances[0]} to {distances[-1]}, {'' if falling else 'not '}monotone",
    )


def loss_factor(measured: Measured) -> Finding:
    factors = measured.factors
    rates, psnrs = measured.series(factors, RATE), measured.series(factors, PSNR, 2)
    ends = {apart(rates[0], rates[-1]), apart(psnrs[0], psnrs[-1])}
    rising = _is_rising(rates) and _is_rising(psnrs)
    return Finding(
        "(a) A larger loss factor: more bits, higher PSNR",
        "shown" if rising and ends == {"shown"} else "open",
        f"loss factor {factors[0]} to {factors[-1]}: {rates[0]} to {rates[-1]} bits/pixel, {psnrs[0]} to {psnrs[-1]} "
        f"dB; the means of the {len(factors)} are {'' if rising else 'not '}monotone",
    )


def _is_rising(estimates: Sequence[Estimate]) -> bool:
    return all(a.mean < b.mean for a, b in pairwise(estimates))


def channels(measured: Measured) -> Finding:
    points = ("channels8", "channels16", "channels32")
    psnrs, rates = measured.series(points, PSNR, 2), measured.series(points, RATE)
    first, gain = psnrs[1].minus(psnrs[0]), psnrs[2].minus(psnrs[1])
    return Finding(
        "(c) From 16 channels on, their number makes little difference (8×8 downsampling)",
        "shown" if abs(gain.mean) + gain.deviation < 0.5 else "refuted" if gain.mean - gain.deviation > 0.5 else "open",
        "8, 16, 32 channels: "
        + ", ".join(f"{psnr} dB at {rate} bits/pixel" for psnr, rate in zip(psnrs, rates, strict=True))
        + f"; the second 8 gain {first} dB, the next 16 {gain}; less than 0.5 dB counts as little",
    )


def latent_logsnr_and_longer(measured: Measured) -> Finding:
    """(d) with what longer training changes."""
    finding = latent_logsnr(measured)
    return replace(finding, evidence=f"{finding.evidence}; {_longer(FOLDER / 'longer')}")


def latent_logsnr(measured: Measured) -> Finding:
    rate, other = measured.series((measured.baseline, "logsnr10"), RATE)
    psnrs = measured.series((measured.baseline, "logsnr10"), PSNR, 2)
    return Finding(
        "(d) λ_z(0) = 10 moves the information out of the latent",
        apart(other, rate),
        f"{other} bits/pixel ({psnrs[1]} dB) instead of {rate} ({psnrs[0]} dB): the same noise "
        "levels and 5 nats more, which so few steps do not teach the encoder to avoid",
    )


def _longer(folder: Path) -> str:
    """(d) after longer training, with one seed each."""
    rows = {row["point"]: row for row in Store(folder).rows() if row["status"] == "done"}
    texts = []
    for point in ("logsnr10", "logsnr5"):
        figures = rows[point]["figures"]
        texts.append(f"{figures[RATE]:.3f} bits/pixel ({figures[PSNR]:.2f} dB)")
    steps = rows["logsnr10"]["resolved"]["train"]["latents"]["steps"]
    return f"after {steps:,} steps, with one seed, {texts[0]} instead of {texts[1]}"


def learned_variance(measured: Measured) -> Finding:
    parts, verdicts = [], {}
    for logsnr, point in ((5, "learned_variance"), (10, "learned_variance_logsnr10")):
        rate, psnr = measured.get(point, RATE), measured.get(point, PSNR, 2)
        excess = measured.excess_bits(point)
        verdicts[logsnr] = sign(excess)
        parts.append(f"at {logsnr}: {psnr} dB at {rate} bits/pixel, {excess} more than the curve at this PSNR")
    return Finding(
        "(e) A learned variance of the latent's noise loses a little, at λ_z(0) = 5 and at 10",
        ", ".join(f"{verdict} at {logsnr}" for logsnr, verdict in verdicts.items()),
        "; ".join(parts),
    )


def normal_prior(measured: Measured) -> Finding:
    excess, base = measured.excess_bits("normal_prior"), measured.get("normal_prior", RATE)
    return Finding(
        "(f) A normal prior needs more bits for the same PSNR",
        sign(excess),
        f"{base} bits/pixel at {measured.get('normal_prior', PSNR, 2)} dB, {excess} more than the curve at this PSNR",
    )


def prior_gradient(measured: Measured) -> Finding:
    excess = measured.excess_psnr("no_prior_gradient")
    lost = Estimate({seed: -value for seed, value in excess.values.items()}, 2)
    rate = measured.get("no_prior_gradient", RATE)
    return Finding(
        "(g) Without the prior's gradient to the encoder, quality is lost",
        sign(lost),
        f"{measured.get('no_prior_gradient', PSNR, 2)} dB at {rate} bits/pixel, {lost} dB below the curve at this rate",
    )


def base_weighting(measured: Measured) -> Finding:
    sigmoid, elbo = measured.series(("sigmoid", "elbo"), SAMPLES, 0)
    rates = measured.series(("sigmoid", "elbo"), BASE_RATE)
    return Finding(
        "(h) A base with sigmoid weighting samples far better than one with the prior's ELBO",
        apart(sigmoid, elbo),
        f"distance of {measured.samples:,} samples {sigmoid} with sigmoid weighting, {elbo} with the ELBO; rates by "
        f"the base {rates[0]} and {rates[1]} bits/pixel",
    )


def larger_base(_: Measured) -> Finding:
    results = read_base_sizes()
    best = best_rates(results)
    small, medium = (f"with {size['depth']} layers of {size['width']} channels" for size in results["sizes"].values())
    rates = [row[RATE] for row in results["latents"]]
    times = {size: distances[-1] for size, distances in distances_by_rate(results).items()}
    return Finding(
        "(b) The best rate for generation is higher for a larger base",
        apart(best["small"], best["medium"]),
        f"the distance of {results['protocol']['samples']:,} samples is least at {best['small']} bits/pixel {small}, "
        f"at {best['medium']} {medium}; "
        f"at {rates[-1]:.2f} it is {times['small']} and {times['medium']} times that at {rates[0]:.2f} bits/pixel",
    )


def pixels_and_seconds(measured: Measured) -> Finding:
    """(i) of pixels with what its training took."""
    return pixels(measured, pipeline_costs(measured, read_latent_diffusion()))


def pixels(measured: Measured, costs: Mapping[str, str] | None = None) -> Finding:
    latents, pixel = measured.series(("sigmoid", "pixels"), SAMPLES, 0)
    costs = costs or {point: f"{flops / 1e12:.1f} TFLOPs" for point, flops in training_flops(measured).items()}
    return Finding(
        "(i) At equal training FLOPs, Unified Latents sample better than diffusion on pixels",
        apart(latents, pixel),
        f"distance of {measured.samples:,} samples {latents} after {costs['sigmoid']}, on pixels {pixel} after "
        f"{costs['pixels']}",
    )


def latent_diffusion(measured: Measured) -> Finding:
    results = read_latent_diffusion()
    latents, others = measured.get("sigmoid", SAMPLES, 0), distances_by_weight(results)
    best, costs = best_by_first_seed(others), pipeline_costs(measured, results)
    rows = {row["kl_weight"]: row for row in reversed(results["rows"])}
    return Finding(
        "(i) At equal training FLOPs, Unified Latents sample better than latent diffusion on an AutoencoderKL",
        apart(latents, best) if len(best.values) > 1 else "open",
        f"distance of {measured.samples:,} samples {latents} after {costs['sigmoid']}; by latent diffusion after "
        f"{costs['latent_diffusion']}{f', {best}' if len(best.values) > 1 else ''}, seed by seed: "
        + "; ".join(
            f"{', '.join(f'{value:.0f}' for value in estimate.values.values())} with a KL weight of {weight:g}, whose "
            f"latents give {rows[weight]['psnr_db']:.1f} dB at {rows[weight]['kl_bits_per_pixel']:.2f} bits/pixel"
            for weight, estimate in others.items()
        ),
    )


Claim = Callable[[Measured], Finding]
CLAIMS: tuple[Claim, ...] = (
    loss_factor_and_distances,
    larger_base,
    channels,
    latent_logsnr_and_longer,
    learned_variance,
    normal_prior,
    prior_gradient,
    base_weighting,
    pixels_and_seconds,
    latent_diffusion,
)
FASHION_CLAIMS: tuple[Claim, ...] = (
    loss_factor,
    latent_logsnr,
    learned_variance,
    normal_prior,
    prior_gradient,
    base_weighting,
    pixels,
)


def page(emoji: Measured, fashion: Measured) -> str:
    """The claims in Markdown."""
    return HEADING + table(CLAIMS, emoji) + NOTES + FASHION_HEADING + table(FASHION_CLAIMS, fashion)


def table(claims: Iterable[Claim], measured: Measured) -> str:
    """The rows of a table."""
    findings = [claim(measured) for claim in claims]
    return "".join(f"| {finding.claim} | {finding.verdict} | {finding.evidence} |\n" for finding in findings)


def train(store: Path, workers: str) -> None:
    """Run the sweeps, and copy their rows."""
    for name, options in SWEEPS.items():
        sweep = Path(__file__).with_name(f"claims_{name}.yaml")
        ulzoo("sweep", str(sweep), *options, "--workers", workers, "--out", str(store / name))
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store / name / "results.jsonl", FOLDER / name / "results.jsonl")


def read() -> tuple[Measured, Measured]:
    """The rows of this folder, on emoji and on Fashion-MNIST."""
    emoji = Measured(CURVE, FOLDER / "latents", FOLDER / "generation")
    return emoji, Measured(FOLDER / "fashion", FOLDER / "fashion_generation", factors=FASHION_FACTORS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--store", type=Path, default=Path("runs/claims"))
    parser.add_argument("--no-training", action="store_true")
    arguments = parser.parse_args()
    if not arguments.no_training:
        train(arguments.store, arguments.workers)
    emoji, fashion = read()
    write_text(FOLDER / "claims.md", page(emoji, fashion))
    save_claims_plot(emoji, FOLDER / "claims.png")
    print(page(emoji, fashion))


if __name__ == "__main__":
    main()
