"""Speed of sampling: steps and images per second of base and decoder, and what makes it quicker.

    python -m benchmarks sampling_speed [--models emoji32_tiny,emoji64_small] [--batch 16] [--steps 4] [--compile]

Guided in one doubled batch beside two calls, guided in an interval beside everywhere, in bf16 beside fp32 where the
device has it, and with `--compile` compiled beside eager. Of a name without released weights the networks are fresh.
Every ratio is of sides that take turns, and above 1 where what is named first is the quicker one. Writes
sampling_speed.json.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measuring import Spread, by_turns, parser, prepare, publish, ratio
from ulzoo.diffusion import Guidance
from ulzoo.model.denoisers import Conditions, DiffusionModel
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import create_model, optimize_for_inference
from ulzoo.runtime.devices import has_bf16


def sides(
    part: DiffusionModel, shape: tuple[int, ...], steps: int, conditions: Conditions, device: torch.device
) -> dict[str, Callable[[], object]]:
    """One sampling of `steps` steps by each of them."""
    diffusion, denoiser = part.diffusion, part.denoiser(**conditions)

    def sample(guidance: Guidance | None) -> object:
        return diffusion.sample(denoiser, shape, steps, "ddim", device=device, guidance=guidance)

    found: dict[str, Callable[[], object]] = {"plain": lambda: sample(None)}
    if "labels" in conditions:
        without = part.denoiser(**{name: value for name, value in conditions.items() if name != "labels"})  # type: ignore[arg-type]
        two = Guidance(lambda x_t, logsnr: (denoiser(x_t, logsnr), without(x_t, logsnr)), 2.0)
        one = Guidance(part.cfg_denoiser(conditions), 2.0)
        found |= {
            "two calls": lambda: sample(two),
            "doubled batch": lambda: sample(one),
            "interval": lambda: sample(replace(one, interval=(-3.0, 3.0))),
        }
    return found


def quickened(model: UnifiedLatents, compiled: bool) -> dict[str, UnifiedLatents]:
    """Copies of a model that are quicker, by how."""
    ways: dict[str, dict[str, Any]] = {"bf16": {"precision": "bf16"}} if has_bf16(model.device) else {}
    if compiled:
        ways |= {f"{name}, compiled": {**how, "compile": True} for name, how in {"fp32": {}, **ways}.items()}
    return {name: optimize_for_inference(deepcopy(model), **how) for name, how in ways.items()}


def measure(name: str, options: Any, device: torch.device) -> list[dict[str, Any]]:
    model, rows = create_model(name).to(device), []
    quick = quickened(model, options.compile)
    contract, n = model.contract, options.batch
    labels = torch.arange(n, device=device) % max(contract.num_classes, 1)
    for role, shape in (("base", contract.latent_shape), ("decoder", contract.shape)):
        part = getattr(model, role)
        assert isinstance(part, DiffusionModel)
        conditions: Conditions = {"labels": labels} if part.num_classes else {}
        if role == "decoder":
            conditions["context"] = torch.randn(n, *contract.latent_shape, device=device)
        works = sides(part, (n, *shape), options.steps, conditions, device)
        for way, other in quick.items():
            works[way] = sides(getattr(other, role), (n, *shape), options.steps, conditions, device)["plain"]
        with torch.no_grad():
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
        ratios |= {f"{way} over fp32": ratio(seconds["plain"], seconds[way]) for way in quick}
        rows.append({"model": name, "part": role, "ratios": ratios})
        for what, value in ratios.items():
            print(f"{name} {role}: {what} {value}", flush=True)
    return rows


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--models", default="emoji32_tiny,emoji64_small")
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument("--compile", action="store_true", help="compiled sides too; needs a C++ compiler or a GPU")
    options = arguments.parse_args()
    device = prepare(options)
    rows = [row for name in options.models.split(",") for row in measure(name, options, device)]
    publish("sampling_speed", {"steps": options.steps, "rows": rows}, device, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
