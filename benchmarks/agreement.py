"""Losses and gradients on a device beside those on the CPU in fp32, of all stages, in fp32 and in bf16.

    python -m benchmarks agreement [--specs emoji32_curve,emoji_video64_small,...] [--batch 4] [--device cuda]
                                   [--set KEY=VALUE]...

Both sides have the same weights, examples and noise, which is drawn on the host. Reports the relative difference of the
loss and, over all trained weights, that of the gradient, ‖g - g_CPU‖ / ‖g_CPU‖. The bars are 1e-3 and 1e-2 in fp32,
without TF32, and 2e-2 and 1e-1 in bf16. On the CPU itself fp32 differs by nothing, which checks the script.
"""

import json
import sys
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.measuring import parser, prepare, publish
from ulzoo.diffusion import IndependentNoise
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Stage
from ulzoo.model.losses import StageLoss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import Spec, load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.runtime.devices import Precision, autocast

SPECS = "emoji32_curve,emoji64_tiny,emoji64_small,emoji_video64_tiny,emoji_video64_small"
BARS: dict[Precision, tuple[float, float]] = {"fp32": (1e-3, 1e-2), "bf16": (2e-2, 1e-1)}

Row = dict[str, Any]


class HostNoise(TorchFunctionMode):
    """Draws random numbers on the host, whose generators the noise has, and copies them to the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.uniform_, Tensor.normal_) and args[0].device.type != "cpu":
            drawn = func(torch.empty(args[0].shape, dtype=args[0].dtype), *args[1:], **kwargs)
            return args[0].copy_(drawn)
        if func in (torch.rand, torch.randn, torch.randint, torch.randperm) and kwargs.get("generator") is not None:
            device = kwargs.pop("device", None)
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


def loss_and_gradient(
    model: UnifiedLatents, stage: Stage, x: Tensor, labels: Tensor | None, precision: Precision
) -> tuple[float, Tensor]:
    """The loss of a stage, and its gradient with respect to all weights that the stage trains, on the CPU, (N,)."""
    parameters = model.prepare(stage)
    model.eval()  # without dropout
    noise = IndependentNoise(range(len(x)), shared=len(x))
    device = model.device
    with HostNoise(), autocast(precision, device):
        conditions = Conditions(labels=None if labels is None else labels.to(device))
        loss = StageLoss(model, stage)(x.to(device), conditions, noise)["loss"]
    loss.backward()
    missing = torch.zeros(())
    gradients = [missing.expand(p.shape) if p.grad is None else p.grad.float().cpu() for p in parameters]
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])


def compare(spec: Spec, stage: Stage, device: torch.device, batch: int) -> list[Row]:
    """A row for each precision."""
    model = compile_model(spec, pretrained=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # output layers start at 0, behind which gradients would vanish
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    x = 2 * torch.rand(batch, *model.contract.shape, generator=generator) - 1
    classes = model.contract.num_classes
    labels = torch.arange(batch) % classes if classes else None
    expected, reference = loss_and_gradient(deepcopy(model), stage, x, labels, "fp32")
    rows = []
    for precision, bars in BARS.items():
        loss, gradient = loss_and_gradient(deepcopy(model).to(device), stage, x, labels, precision)
        differences = abs(loss / expected - 1), ((gradient - reference).norm() / reference.norm()).item()
        rows.append(
            {
                "spec": spec.name,
                "stage": stage,
                "precision": precision,
                "loss": loss,
                "loss_difference": differences[0],
                "gradient_difference": differences[1],
                "met": all(difference <= bar for difference, bar in zip(differences, bars, strict=True)),
            }
        )
    return rows


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--specs", default=SPECS)
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = arguments.parse_args()
    device = prepare(options)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: list[Row] = []
    for name in options.specs.split(","):
        spec = load_spec(name, options.set)
        for stage in spec.stages:
            rows += compare(spec, stage, device, options.batch)
            for row in rows[-len(BARS) :]:
                print(json.dumps(row), flush=True)
            publish("agreement", {"batch": options.batch, "rows": rows}, device, options.out)
    return int(not all(row["met"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
