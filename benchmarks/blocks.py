"""Forward and backward of our networks compared with timm's ViT blocks and diffusers' U-Net, in turns in one process.

    python -m benchmarks blocks [--device D] [--threads N] [--precisions fp32,bf16] [--compile] [--scale N]
                                [--cases ...] [--rounds 9] [--out benchmarks/results] [--json]

The transformer of a spec is compared with timm's blocks of the same widths, depths, heads, dropout and tokens, which
have no input for the noise level and no positions; its U-ViT decoder with diffusers' UNet2DModel of about as many FLOPs
on the same image, in time per FLOP. Both run their own code in training mode; with `--compile` ours is compiled block
by block as in the trainer, and theirs as a whole. `--scale` multiplies the batches, for a GPU. Exit status 1 if ours
takes more than 1.05 of timm's time or 1.1 of the U-Net's time per FLOP, in the precision that the specs train in (bf16
where the device has it, else fp32); times in other precisions are reported too.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.measuring import Spread, by_turns, parser, prepare, publish, ratio
from benchmarks.rivals import DiffusersUNet, TimmBlocks, forward_flops
from ulzoo.model.conditioning import Conditions
from ulzoo.nn import HierarchicalViT, UViT, ViT
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.runtime.devices import autocast, has_bf16
from ulzoo.training.compilation import compile_blocks

BATCHES = {
    ("emoji32_tiny", "base"): 64,
    ("emoji64_small", "prior"): 16,
    ("emoji64_small", "base"): 16,
    ("imagenet512_small", "prior"): 3,  # with 1, the casts of wide weights dominate, of which ours has more
    ("imagenet512_small", "base"): 1,
    ("imagenet512_medium", "base"): 3,
    ("emoji64_small", "decoder"): 4,
    ("imagenet64_small", "decoder"): 1,
}
TIMM, UNET = 1.05, 1.1


def pair(spec: str, name: str, batch: int, device: torch.device) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """Our network and theirs, each with its inputs."""
    model = compile_model(load_spec(spec), device, pretrained=False)
    part, contract = getattr(model, name), model.contract
    network = part.network.train().requires_grad_(True)
    logsnr, labels = torch.randn(batch, device=device), torch.zeros(batch, dtype=torch.long, device=device)
    z = torch.randn(batch, *contract.latent_shape, device=device)
    x_t = torch.randn(batch, *contract.shape, device=device) if name == "decoder" else z
    conditions = part.select_conditions(Conditions(labels), device)
    if name == "decoder":
        conditions = model.decoder_conditions(part, z, Conditions(labels))
    with device:
        if isinstance(network, UViT):
            one = conditions._replace(**{k: v[:1] for k, v in conditions._asdict().items() if v is not None})
            flops = forward_flops(network, x_t[:1], logsnr[:1], one)
            theirs: nn.Module = DiffusersUNet(x_t.shape[1], x_t.shape[-1], flops)
            inputs: dict[str, Any] = {"x": x_t, "t": logsnr}
        else:
            theirs = TimmBlocks(network)
            inputs = {"tokens": torch.randn(batch, tokens(network), network.embed.out_features)}
    for parameter in network.parameters():  # outputs are initialised to zero
        nn.init.normal_(parameter, std=0.02)
    our_inputs = {"x_t": x_t, "logsnr": logsnr, "conditions": conditions}
    return {"ours": (network, our_inputs), "theirs": (theirs.train(), inputs)}


def tokens(network: ViT | HierarchicalViT) -> int:
    """Number of tokens of the finest level."""
    return math.prod(network.size if isinstance(network, ViT) else network.sizes[0])


def step(network: nn.Module, inputs: dict[str, Any], precision: str, device: torch.device) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        network.zero_grad()
        with autocast(precision, device):
            loss = network(**inputs).float().square().mean()
        loss.backward()

    return run


def measure(spec: str, name: str, precision: str, options: Any, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    batch = BATCHES[spec, name] * options.scale
    both = pair(spec, name, batch, device)
    flops = {side: forward_flops(network, **inputs) for side, (network, inputs) in both.items()}
    if options.compile:
        for network, _ in both.values():
            compile_blocks(nn.ModuleDict({"network": network}))
    sides = {side: step(network, inputs, precision, device) for side, (network, inputs) in both.items()}
    seconds = by_turns(sides, device, options.rounds, warm=3 if options.compile else 1)
    against, bar = ("diffusers UNet2DModel", UNET) if "decoder" in name else ("timm blocks", TIMM)
    relative = ratio(seconds["ours"], seconds["theirs"])
    if against != "timm blocks":
        relative = ratio([s / flops["ours"] for s in seconds["ours"]], [s / flops["theirs"] for s in seconds["theirs"]])
    row = {
        "case": f"{spec} {name}",
        "against": against,
        "precision": precision,
        "compiled": options.compile,
        "batch": batch,
        "forward_gflops": {side: round(count / 1e9, 3) for side, count in flops.items()},
        "seconds": {side: Spread.of(values) for side, values in seconds.items()},
        "ratio": relative,
        "bar": bar,
    }
    print(f"{row['case']:<26} {precision}  of {against}: {relative}, bar {bar}", flush=True)
    return row


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--precisions", default="fp32,bf16")
    arguments.add_argument("--compile", action="store_true")
    arguments.add_argument("--scale", type=int, default=1)
    arguments.add_argument("--cases", default=",".join(f"{spec}:{name}" for spec, name in BATCHES))
    options = arguments.parse_args()
    device = prepare(options)
    precisions = [name for name in options.precisions.split(",") if name == "fp32" or has_bf16(device)]
    cases = [tuple(case.split(":")) for case in options.cases.split(",")]
    rows = [measure(spec, name, precision, options, device) for spec, name in cases for precision in precisions]
    publish("blocks_compiled" if options.compile else "blocks", {"rows": rows}, device, options.out)
    trained_in = "bf16" if "bf16" in precisions else "fp32"
    missed = [row["case"] for row in rows if row["precision"] == trained_in and row["ratio"].median > row["bar"]]
    print(f"in {trained_in}: " + (f"missed by {', '.join(missed)}" if missed else "all bars are met"))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
