"""What a spec amounts to, measured on the meta device: blocks, parameters, FLOPs, memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ulzoo.contract import STAGES, Stage
from ulzoo.model import UnifiedLatents
from ulzoo.nn.transformer import Transformer
from ulzoo.registry.compile import compile_model
from ulzoo.registry.schema import Spec

NETWORKS = tuple(chain(*STAGES.values()))


@dataclass(frozen=True)
class BlockRow:
    """One block of a network: its path, class, output shape without the batch, parameters, forward FLOPs."""

    path: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """A spec in numbers. FLOPs are 2 × multiply-accumulates of linear layers, convolutions, attention; per example.

    `encodings` is how often stage 2 encodes an example: once, and once more what is given of it.
    """

    resolution: tuple[int, ...]
    latent: tuple[int, ...]
    blocks: list[BlockRow]
    parameters: dict[str, int]
    flops: dict[str, int]
    saved_bytes: dict[Stage, int]
    encodings: int = 1

    def training_flops(self, stage: Stage) -> int:
        """Per image or clip: 3 × forward for what is trained (paper §4), 1 × for every pass of the frozen encoder."""
        trained = 3 * sum(self.flops[name] for name in STAGES[stage])
        return trained + (self.encodings * self.flops["encoder"] if stage == "base" else 0)

    def memory_bytes(self, stage: Stage, batch_size: int, bf16: bool) -> int:
        """Estimate of the peak of one training step on one device: weights, gradients, AdamW's two moments and the EMA
        in fp32, and what autograd keeps of a batch (half of it in bf16)."""
        trained = sum(self.parameters[name] for name in STAGES[stage])
        activations = self.saved_bytes[stage] * batch_size // (2 if bf16 else 1)
        return 4 * sum(self.parameters.values()) + 16 * trained + activations

    def to_dict(self) -> dict[str, Any]:
        return {
            "resolution": list(self.resolution),
            "latent": list(self.latent),
            "parameters": {**self.parameters, "total": sum(self.parameters.values())},
            "gflops_forward": {name: flops / 1e9 for name, flops in self.flops.items()},
            "gflops_training_per_image": {stage: self.training_flops(stage) / 1e9 for stage in STAGES},
            "blocks": [
                {
                    "path": row.path,
                    "kind": row.kind,
                    "output": list(row.output),
                    "parameters": row.parameters,
                    "gflops": row.flops / 1e9,
                }
                for row in self.blocks
            ],
        }


def summarize(spec: Spec, memory: bool = True) -> Summary:
    """Compile on `meta`, run every network once on one example, and check that its output has the shape it must have.

    Args:
        memory: also trace training for `memory_bytes`, which takes as long again.

    Raises:
        SpecError: parts that do not fit.
    """
    model = compile_model(spec, "meta")
    assert model.base is not None
    contract = model.contract
    x = torch.zeros(1, contract.channels, *contract.size, device="meta")
    z = torch.zeros(1, *contract.latent_shape, device="meta")
    logsnr = torch.zeros(1, device="meta")

    def given(x_t: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([x_t, x_t[:, :1]], dim=1),) if contract.given_frames else ()

    calls: dict[str, tuple[nn.Module, tuple[Any, ...], Tensor]] = {
        "encoder": (model.encoder, (x,), z),
        "prior": (model.prior.network, (z, logsnr), z),
        "decoder": (model.decoder.network, (x, logsnr, z, None, *given(x)), x),
        "base": (model.base.network, (z, logsnr, None, None, *given(z)), z),
    }
    blocks: list[BlockRow] = []
    flops = {}
    for name, (network, inputs, expected) in calls.items():
        rows, flops[name], output = _measure(name, network, inputs)
        if output.shape != expected.shape:
            raise spec.error(name, f"returns shape {tuple(output.shape[1:])}, it must be {tuple(expected.shape[1:])}")
        blocks += rows
    parameters = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in NETWORKS}
    saved: dict[Stage, int] = {stage: _saved_bytes(model, stage, x) for stage in STAGES if memory}
    return Summary(
        contract.size, contract.latent_shape, blocks, parameters, flops, saved, 1 + (contract.given_frames > 0)
    )


def fold(rows: list[BlockRow]) -> list[tuple[int, BlockRow]]:
    """(how many, row): equal blocks in sequence as one row "blocks.0-7" with their parameters and FLOPs added up."""

    def alike(row: BlockRow) -> tuple[Any, ...]:
        return row.path.rpartition(".")[0], row.kind, row.output, row.parameters, row.flops

    folded = []
    for _, group in groupby(rows, alike):
        first, *rest = group
        if not (rest and first.path.rpartition(".")[2].isdecimal()):
            folded += [(1, row) for row in (first, *rest)]
            continue
        count = 1 + len(rest)
        path = f"{first.path}-{rest[-1].path.rpartition('.')[2]}"
        row = BlockRow(path, first.kind, first.output, count * first.parameters, count * first.flops)
        folded.append((count, row))
    return folded


def _measure(name: str, network: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[BlockRow], int, Tensor]:
    outputs: dict[nn.Module, Tensor] = {}
    paths = dict(_blocks(network, name))
    hooks = [block.register_forward_hook(lambda m, _, out: outputs.setdefault(m, out)) for block in paths.values()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = network(*inputs)
    for hook in hooks:
        hook.remove()
    counts, root = counter.get_flop_counts(), type(network).__name__
    rows = [
        BlockRow(
            path,
            type(block).__name__,
            tuple(outputs[block].shape[1:]),
            sum(p.numel() for p in block.parameters()),
            sum(counts.get(root + path.removeprefix(name), {}).values()),
        )
        for path, block in paths.items()
        if block in outputs
    ]
    return rows, counter.get_total_flops(), output


def _blocks(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a network at the grain that its author thinks in: what lists and stacks hold."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential | Transformer):
            yield from _blocks(child, f"{path}.{name}")
        elif any(True for _ in child.parameters()):
            yield f"{path}.{name}", child


def _saved_bytes(model: UnifiedLatents, stage: Stage, x: Tensor) -> int:
    """Bytes that autograd keeps between forward and backward for one example, weights not counted."""
    model.prepare(stage)
    weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # alive until they are counted, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.latents_loss(x).total if stage == "latents" else model.base_loss(x)
    assert math.prod(loss.shape) == 1
    return sum(storage.nbytes() for storage in kept.values())
