"""Latent diffusion from diffusers' parts beside Unified Latents: an AutoencoderKL, then a DiT on its latents.

    python -m benchmarks latent_diffusion [--seeds 3] [--kl-weights 0.01,0.1] [--device cpu] [--out FOLDER]

Both take as many training FLOPs as the two stages of Unified Latents in claims_generation.yaml, on the same images, in
batches of the same size: sizes of networks are chosen near, and numbers of steps exactly. The latents have the same
shape, and the DiT has the base's classes, dropped from a tenth of the examples. The autoencoder minimises
½‖x - x̂‖² + w · KL of its posterior to N(0, I). All KL weights w are trained with the first seed, the one with the
smallest distance with all seeds. There are no adversarial and perceptual losses, as the two stages of Unified Latents
have none. The distance of 1,500 samples, with labels of the training images, from these is that of the claims. The time
of a training step is measured for all pipelines by turns in one process, in fp32, which every processor has.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.distill import statistics
from benchmarks.measuring import RESULTS, Spread, by_turns, parser, prepare, publish
from benchmarks.rivals import forward_flops
from benchmarks.step import step
from ulzoo.data import Source, batches, in_order
from ulzoo.evaluation.config import EvaluationConfig
from ulzoo.evaluation.features.images import efficientnet_lite0
from ulzoo.evaluation.frechet import frechet_distance
from ulzoo.evaluation.reference import reference_statistics
from ulzoo.media.pixels import psnr
from ulzoo.registry import load_spec
from ulzoo.registry.compile import open_source

GENERATION, SAMPLES, SAMPLING_STEPS = Path(__file__).with_name("claims_generation.yaml"), 1500, 25
SPEC, PIXELS = f"{GENERATION}:sigmoid", f"{GENERATION}:pixels"
LATENT_CHANNELS, GRID = 8, 8
LEARNING_RATE, WARMUP = 1e-3, 50  # of 1, 3 and 6 · 10⁻³ the best for the autoencoder after 120 steps
FLOPS_PER_FORWARD = 3  # training, as in the paper


@dataclass(frozen=True)
class Budget:
    """What a stage of Unified Latents cost in training.

    Attributes:
        flops: training FLOPs.
        batch: images per step.
        forward_flops: of one image.
    """

    flops: float
    batch: int
    forward_flops: float

    def steps(self, forward_flops: float) -> int:
        """As many steps of a network with other FLOPs of an image as cost the same."""
        return round(self.flops / (FLOPS_PER_FORWARD * forward_flops * self.batch))


def budgets() -> dict[str, Budget]:
    """Of both stages, from the rows of the claims."""
    path = RESULTS / "claims" / "generation" / "results.jsonl"
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    row = next(row for row in rows if row["point"] == "sigmoid")
    stages = row["resolved"]["train"]
    costs = {}
    for name, flops in row["training_flops"].items():
        images = stages[name]["batch_size"] * stages[name]["steps"]
        costs[name] = Budget(flops, stages[name]["batch_size"], flops / FLOPS_PER_FORWARD / images)
    return costs


class Autoencoder(nn.Module):
    """diffusers' AutoencoderKL with two downsamplings, of about the given forward FLOPs of an image at 32²."""

    def __init__(self, flops: float):
        super().__init__()
        x = torch.zeros(1, 3, 4 * GRID, 4 * GRID, device="meta")
        with torch.device("meta"):
            counted = {width: forward_flops(_autoencoder(width), x) for width in range(4, 65, 4)}
        width = min(counted, key=lambda width: abs(counted[width] - flops))
        self.flops, self.network = counted[width], _autoencoder(width)

    def posterior(self, x: Tensor) -> Any:
        return self.network.encode(x).latent_dist

    def loss(self, x: Tensor, kl_weight: float) -> Tensor:
        """½‖x - x̂‖² + w · KL, the mean of a batch (B, 3, 32, 32)."""
        posterior = self.posterior(x)
        decoded = self.network.decode(posterior.sample()).sample
        return ((x - decoded).square().flatten(1).sum(1) / 2 + kl_weight * posterior.kl()).mean()


def _autoencoder(width: int) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(width, 2 * width, 4 * width),
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=4 * GRID,
    )


class DiT(nn.Module):
    """diffusers' DiTTransformer2DModel on every position of the latent, two heads of 64, of about the given FLOPs."""

    def __init__(self, flops: float, classes: int):
        super().__init__()
        x, t = torch.zeros(1, LATENT_CHANNELS, GRID, GRID, device="meta"), torch.zeros(1, device="meta").long()
        with torch.device("meta"):
            counted = {depth: forward_flops(_dit(depth, classes), x, t, class_labels=t) for depth in range(1, 9)}
        depth = min(counted, key=lambda depth: abs(counted[depth] - flops))
        self.flops, self.network = counted[depth], _dit(depth, classes)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.network(x, t, class_labels=labels).sample

    def loss(self, x: Tensor, labels: Tensor, scheduler: Any) -> Tensor:
        """The mean squared error of ε, as in DDPM, of latents (B, c, h, w) of classes (B,)."""
        noise, t = torch.randn_like(x), torch.randint(scheduler.config.num_train_timesteps, (len(x),), device=x.device)
        return F.mse_loss(self(scheduler.add_noise(x, noise, t), t, labels), noise)


def _dit(depth: int, classes: int) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        num_layers=depth,
        sample_size=GRID,
        patch_size=1,
        num_embeds_ada_norm=classes,
    )


class Training:
    """AdamW with a warm-up, clipped gradients, and a moving average, as in diffusers' examples."""

    def __init__(self, network: nn.Module):
        from diffusers.training_utils import EMAModel

        self.network, self.steps = network, 0
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        self.average = EMAModel(network.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)

    def step(self, loss: Tensor) -> None:
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, self.steps / WARMUP)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0, error_if_nonfinite=True)
        self.optimizer.step()
        self.average.step(self.network.parameters())

    def finish(self) -> None:
        """Replace the weights by their moving average."""
        self.average.copy_to(self.network.parameters())
        self.network.eval().requires_grad_(False)


def train_autoencoder(source: Source, kl_weight: float, budget: Budget, seed: int) -> Autoencoder:
    torch.manual_seed(seed)
    autoencoder = Autoencoder(budget.forward_flops)
    training, stream = Training(autoencoder), batches(source, budget.batch, seed=seed)
    for _ in range(budget.steps(autoencoder.flops)):
        training.step(autoencoder.loss(next(stream)["x"], kl_weight))
    training.finish()
    return autoencoder


def train_dit(source: Source, autoencoder: Autoencoder, budget: Budget, seed: int) -> tuple[DiT, float]:
    """The DiT, and the factor that scales latents to a variance of 1."""
    from diffusers import DDPMScheduler

    torch.manual_seed(seed)
    latents = [autoencoder.posterior(part["x"]).sample() for part in in_order(source, 256)]
    scale = 1 / torch.cat(latents).std().item()
    dit = DiT(budget.forward_flops, source.contract.num_classes)
    training, stream = Training(dit), batches(source, budget.batch, seed=seed + 1)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    for _ in range(budget.steps(dit.flops)):
        batch = next(stream)
        with torch.no_grad():
            z = scale * autoencoder.posterior(batch["x"]).sample()
        training.step(dit.loss(z, batch["label"], scheduler))
    training.finish()
    return dit, scale


@torch.no_grad()
def sample(dit: DiT, autoencoder: Autoencoder, scale: float, labels: Tensor) -> Tensor:
    """Images (B, 3, 32, 32) of classes (B,), by DDIM."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(SAMPLING_STEPS)
    x = torch.randn(len(labels), LATENT_CHANNELS, GRID, GRID)
    for t in scheduler.timesteps:
        x = scheduler.step(dit(x, t.expand(len(labels)), labels), t, x).prev_sample
    return autoencoder.network.decode(x / scale).sample.clamp(-1, 1)


def measure(
    source: Source, validation: Tensor, *, kl_weight: float, seed: int, distance: Callable[[Tensor], float]
) -> dict[str, Any]:
    """A row: PSNR of reconstructions, distance of samples, and FLOPs of training, for one seed."""
    costs = budgets()
    autoencoder = train_autoencoder(source, kl_weight, costs["latents"], seed)
    dit, scale = train_dit(source, autoencoder, costs["base"], seed)
    with torch.no_grad():
        posterior = autoencoder.posterior(validation)
        reconstructions = autoencoder.network.decode(posterior.sample()).sample.clamp(-1, 1)
    torch.manual_seed(seed)
    labels = torch.tensor([source[i * len(source) // SAMPLES].label for i in range(SAMPLES)])
    samples = torch.cat([sample(dit, autoencoder, scale, part) for part in labels.split(100)])
    networks: dict[str, Autoencoder | DiT] = {"latents": autoencoder, "base": dit}
    steps = {name: cost.steps(networks[name].flops) for name, cost in costs.items()}
    return {
        "kl_weight": kl_weight,
        "seed": seed,
        "psnr_db": psnr(reconstructions, validation).mean().item(),
        "kl_bits_per_pixel": posterior.kl().mean().item() / (4 * GRID) ** 2 / torch.tensor(2.0).log().item(),
        "gfd_efficientnet_lite0": distance(samples),
        "steps": steps,
        "training_flops": {
            name: FLOPS_PER_FORWARD * networks[name].flops * costs[name].batch * count for name, count in steps.items()
        },
    }


def step_seconds(device: torch.device, rounds: int) -> dict[str, Spread]:
    """Seconds of a training step of each stage of all pipelines, by turns."""
    from diffusers import DDPMScheduler

    costs, scheduler = budgets(), DDPMScheduler(num_train_timesteps=1000)
    x = torch.rand(costs["base"].batch, 3, 4 * GRID, 4 * GRID) * 2 - 1
    labels = torch.zeros(len(x)).long()
    autoencoder, dit = Autoencoder(costs["latents"].forward_flops), DiT(costs["base"].forward_flops, classes=1)
    first, second = Training(autoencoder), Training(dit)

    def dit_step() -> None:
        with torch.no_grad():
            latents = autoencoder.posterior(x).sample()
        second.step(dit.loss(latents, labels, scheduler))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        sides: dict[str, Callable[[], object]] = {
            "unified_latents.latents": step(SPEC, "latents", device, path / "1", precision="fp32"),
            "unified_latents.base": step(SPEC, "base", device, path / "2", precision="fp32"),
            "pixels.base": step(PIXELS, "base", device, path / "3", precision="fp32"),
            "latent_diffusion.latents": lambda: first.step(autoencoder.loss(x[: costs["latents"].batch], 0.01)),
            "latent_diffusion.base": dit_step,
        }
        return {name: Spread.of(values) for name, values in by_turns(sides, device, rounds, warm=3).items()}


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--kl-weights", default="0.01,0.1")
    options = arguments.parse_args()
    device = prepare(options)
    spec = load_spec(SPEC)
    source, validation = open_source(spec, "train"), open_source(spec, "val")
    held_out = next(in_order(validation, len(validation)))["x"]
    features = efficientnet_lite0(device)
    reference = reference_statistics(source, features, EvaluationConfig(spec.data_identity(), split="train"))

    def distance(samples: Tensor) -> float:
        return frechet_distance(statistics(features, samples), reference.gaussian)

    seconds = step_seconds(device, options.rounds)
    rows: list[dict[str, Any]] = []

    def train(kl_weight: float, seed: int) -> None:
        rows.append(measure(source, held_out, kl_weight=kl_weight, seed=seed, distance=distance))
        print(json.dumps(rows[-1]), flush=True)
        content = {"spec": f"{GENERATION.stem}:sigmoid", "samples": SAMPLES, "rows": rows, "step_seconds": seconds}
        publish("latent_diffusion", content, device, options.out)

    for kl_weight in map(float, options.kl_weights.split(",")):
        train(kl_weight, seed=0)
    best = min(rows, key=lambda row: row["gfd_efficientnet_lite0"])["kl_weight"]
    for seed in range(1, options.seeds):
        train(best, seed)
    return 0


if __name__ == "__main__":
    main()
