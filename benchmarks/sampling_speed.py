"""Speed of sampling: steps and images per second of base and decoder; guided in one doubled batch beside two calls.

    python -m benchmarks sampling_speed [--models emoji32_tiny,emoji64_small] [--batch 16] [--steps 4] [--compile]

Of a name without released weights the networks are fresh. Every ratio is of sides that take turns; above 1 the doubled
batch, or the compiled network, is the quicker one. Writes sampling_speed.json.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measuring import Spread, by_turns, parser, prepare, publish, ratio
from ulzoo.denoising import Conditions, DiffusionModel
from ulzoo.diffusion import Guidance
from ulzoo.model import UnifiedLatents
from ulzoo.registry import create_model
from ulzoo.training.precision import autocast


def sides(
    model: UnifiedLatents, part: DiffusionModel, shape: tuple[int, ...], steps: int, conditions: Conditions
) -> dict[str, Callable[[], object]]:
    """One sampling of `steps` steps by each of them."""
    diffusion, device = part.diffusion, model.device
    denoiser = part.denoiser(**conditions)

    def sample(guidance: Guidance | None) -> object:
        return diffusion.sample(denoiser, shape, steps, "ddim", device=device, guidance=guidance)

    found: dict[str, Callable[[], object]] = {"plain": lambda: sample(None)}
    if "labels" in conditions:
        without = part.denoiser(**{name: value for name, value in conditions.items() if name != "labels"})  # type: ignore[arg-type]
        two = Guidance(lambda x_t, logsnr: (denoiser(x_t, logsnr), without(x_t, logsnr)), 2.0)
        one = Guidance(part.with_and_without(conditions), 2.0)
        found |= {
            "two calls": lambda: sample(two),
            "doubled batch": lambda: sample(one),
            "interval": lambda: sample(replace(one, interval=(-3.0, 3.0))),
        }
    return found


def measure(name: str, options: Any, device: torch.device) -> list[dict[str, Any]]:
    model, rows = create_model(name).to(device), []
    contract, n = model.contract, options.batch
    labels = torch.arange(n, device=device) % max(contract.num_classes, 1)
    for role, part, shape in (("base", model.base, contract.latent_shape), ("decoder", model.decoder, contract.shape)):
        assert isinstance(part, DiffusionModel)
        conditions: Conditions = {"labels": labels} if part.num_classes else {}
        if role == "decoder":
            conditions["context"] = torch.randn(n, *contract.latent_shape, device=device)
        works = sides(model, part, (n, *shape), options.steps, conditions)
        if options.compile:
            compiled = DiffusionModel(torch.compile(part.network), part.diffusion, part.weighting)
            denoiser = compiled.denoiser(**conditions)
            works["compiled"] = lambda denoiser=denoiser, shape=shape, part=part: part.diffusion.sample(
                denoiser, (n, *shape), options.steps, "ddim", device=device
            )
        with torch.no_grad(), autocast("bf16" if options.bf16 else "fp32", device):
            seconds = by_turns(works, device, options.rounds)
        for side, each in seconds.items():
            per_image = Spread.of([n / value for value in each])
            row = {"model": name, "part": role, "side": side, "batch": n, "images_per_second_of_all_steps": per_image}
            row["steps_per_second"] = Spread.of([options.steps / value for value in each])
            rows.append(row)
        ratios = {}
        if "two calls" in seconds:
            ratios["doubled batch over two calls"] = ratio(seconds["two calls"], seconds["doubled batch"])
            ratios["interval over everywhere"] = ratio(seconds["doubled batch"], seconds["interval"])
        if "compiled" in seconds:
            ratios["compiled over eager"] = ratio(seconds["plain"], seconds["compiled"])
        rows.append({"model": name, "part": role, "ratios": ratios})
        for what, value in ratios.items():
            print(f"{name} {role}: {what} {value}", flush=True)
    return rows


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--models", default="emoji32_tiny,emoji64_small")
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument("--bf16", action="store_true", help="autocast to bfloat16, where the device has it")
    arguments.add_argument("--compile", action="store_true", help="also with torch.compile, once for each shape")
    options = arguments.parse_args()
    device = prepare(options)
    rows = [row for name in options.models.split(",") for row in measure(name, options, device)]
    asked = {"steps": options.steps, "bf16": options.bf16}
    publish("sampling_speed", {**asked, "rows": rows}, device, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
