"""Speed of sampling: steps and images per second of base and decoder, and what makes it faster.

    python -m benchmarks sampling_speed [--models emoji32_tiny,emoji64_small] [--batch 16] [--steps 4] [--compile]

Guidance in one doubled batch compared with two calls, guidance in an interval with guidance everywhere, bf16 with fp32
where the device has it, and with `--compile` compiled with eager. Models without released weights are untrained. The
sides of every ratio take turns; it is above 1 if the one named first is faster. Writes sampling_speed.json.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measuring import Spread, by_turns, parser, prepare, publish, ratio
from ulzoo.diffusion import Guidance
from ulzoo.model.conditioning import Conditions
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.registry import create_model, optimize_for_inference
from ulzoo.runtime.devices import has_bf16


def sides(
    part: DiffusionModel, shape: tuple[int, ...], steps: int, conditions: NetworkConditions, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Functions that sample with `steps` steps, by name."""
    diffusion, denoiser = part.diffusion, part.denoiser(conditions)

    def sample(guidance: Guidance | None) -> object:
        return diffusion.sample(denoiser, shape, steps, "ddim", device=device, guidance=guidance)

    functions: dict[str, Callable[[], object]] = {"plain": lambda: sample(None)}
    if conditions.labels is not None:
        unconditional = part.denoiser(conditions._replace(labels=None))
        two = Guidance(lambda x_t, logsnr: (denoiser(x_t, logsnr), unconditional(x_t, logsnr)), 2.0)
        one = Guidance(part.cfg_denoiser(conditions), 2.0)
        functions |= {
            "two calls": lambda: sample(two),
            "doubled batch": lambda: sample(one),
            "interval": lambda: sample(replace(one, interval=(-3.0, 3.0))),
        }
    return functions


def optimized_copies(model: UnifiedLatents, compiled: bool) -> dict[str, UnifiedLatents]:
    """Copies of a model that are optimised for inference, by name."""
    options: dict[str, dict[str, Any]] = {"bf16": {"precision": "bf16"}} if has_bf16(model.device) else {}
    if compiled:
        options |= {f"{name}, compiled": {**keys, "compile": True} for name, keys in {"fp32": {}, **options}.items()}
    return {name: optimize_for_inference(deepcopy(model), **keys) for name, keys in options.items()}


def measure(name: str, options: Any, device: torch.device) -> list[dict[str, Any]]:
    model, rows = create_model(name).to(device), []
    copies = optimized_copies(model, options.compile)
    contract, n = model.contract, options.batch
    labels = torch.arange(n, device=device) % max(contract.num_classes, 1)
    for role, shape in (("base", contract.latent_shape), ("decoder", contract.shape)):
        part = getattr(model, role)
        assert isinstance(part, DiffusionModel)
        conditions = part.select_conditions(Conditions(labels), device)
        if role == "decoder":
            conditions = conditions._replace(latent=torch.randn(n, *contract.latent_shape, device=device))
        functions = sides(part, (n, *shape), options.steps, conditions, device)
        for way, copy in copies.items():
            functions[way] = sides(getattr(copy, role), (n, *shape), options.steps, conditions, device)["plain"]
        with torch.no_grad():
            seconds = by_turns(functions, device, options.rounds)
        for side, values in seconds.items():
            per_image = Spread.of([n / value for value in values])
            row = {"model": name, "part": role, "side": side, "batch": n, "images_per_second_of_all_steps": per_image}
            row["steps_per_second"] = Spread.of([options.steps / value for value in values])
            rows.append(row)
        ratios = {}
        if "two calls" in seconds:
            ratios["doubled batch over two calls"] = ratio(seconds["two calls"], seconds["doubled batch"])
            ratios["interval over everywhere"] = ratio(seconds["doubled batch"], seconds["interval"])
        ratios |= {f"{way} over fp32": ratio(seconds["plain"], seconds[way]) for way in copies}
        rows.append({"model": name, "part": role, "ratios": ratios})
        for what, value in ratios.items():
            print(f"{name} {role}: {what} {value}", flush=True)
    return rows


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--models", default="emoji32_tiny,emoji64_small")
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument(
        "--compile", action="store_true", help="also measure compiled networks (C++ compiler or GPU)"
    )
    options = arguments.parse_args()
    device = prepare(options)
    rows = [row for name in options.models.split(",") for row in measure(name, options, device)]
    publish("sampling_speed", {"steps": options.steps, "rows": rows}, device, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
