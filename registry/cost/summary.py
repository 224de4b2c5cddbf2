"""The summary of a model, measured on the meta device: blocks, parameters, FLOPs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import NETWORKS, STAGES, Contract, NetworkName, Stage
from ulzoo.model.denoisers import ConditionalNetwork, DiffusionModel, RegressionDecoder
from ulzoo.model.distillation import DistilledDecoder
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.nn.transformer import Transformer
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.schema import Spec


@dataclass(frozen=True)
class BlockRow:
    """A block of a network: path, class, output shape without the batch, parameters, forward FLOPs."""

    path: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class ModelSummary:
    """A spec in numbers. FLOPs are 2 × multiply-accumulates of linear layers, convolutions and attention, per example.

    Attributes:
        resolution, latent: shape of the image ([t,] h, w) and of the latent (c, [t,] h, w).
        blocks: of all networks.
        parameters, flops: by network; FLOPs of one forward pass.
        encodings: encoder passes per example in stage 2: one, one more for context frames, none for stored latents.
        teacher_steps: passes of the teacher per example of a distilled decoder's training.
        stages: the training stages of the spec.
        frozen: networks that no stage trains.
    """

    resolution: tuple[int, ...]
    latent: tuple[int, ...]
    blocks: list[BlockRow]
    parameters: dict[str, int]
    flops: dict[str, int]
    encodings: int = 1
    teacher_steps: int = 0
    stages: tuple[Stage, ...] = ("latents", "base")
    frozen: tuple[NetworkName, ...] = ()

    def training_flops(self, stage: Stage) -> int:
        """FLOPs per image or clip: 3 × forward for trained networks, 1 × for every pass of a frozen one.

        It is 2 × for a frozen prior or decoder whose gradient with respect to its input trains the encoder.
        """
        frozen_passes = 2 if stage == "latents" and "encoder" not in self.frozen else 1
        passes = {name: frozen_passes if name in self.frozen else 3 for name in STAGES[stage]}
        if stage == "distill":
            passes["final_decoder" if "final_decoder" in self.flops else "decoder"] = self.teacher_steps
        if stage != "latents":
            passes["encoder"] = self.encodings if stage == "base" else 1
        return sum(count * self.flops.get(name, 0) for name, count in passes.items())

    def to_dict(self) -> dict[str, Any]:
        return {
            "resolution": list(self.resolution),
            "latent": list(self.latent),
            "parameters": {**self.parameters, "total": sum(self.parameters.values())},
            "gflops_forward": {name: flops / 1e9 for name, flops in self.flops.items()},
            "gflops_training_per_image": {stage: self.training_flops(stage) / 1e9 for stage in self.stages},
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


def summarize(spec: Spec) -> ModelSummary:
    """Compile on `meta`, run every network on one example, and check the shape of its output.

    A network that several specs share runs once per process, because that takes most of the time.

    Raises:
        SpecError: the parts of the model do not fit together.
    """
    model = compile_model(spec, "meta")
    contract = model.contract
    measured: dict[str, _Measured] = {}
    for name in NETWORKS:
        if getattr(model, name) is not None:
            if (key := _network_key(spec, name, contract)) not in _MEASURED:
                _MEASURED[key] = _measure_network(spec, name, model)
            measured[name] = _MEASURED[key]
    encoded = spec.train.base is not None and spec.train.base.data is not None
    return ModelSummary(
        resolution=contract.size,
        latent=contract.latent_shape,
        blocks=[row for network in measured.values() for row in network.blocks],
        parameters={name: network.parameters for name, network in measured.items()},
        flops={name: network.flops for name, network in measured.items()},
        encodings=0 if encoded else 1 + (contract.context_frames > 0),
        teacher_steps=model.distilled.teacher_steps // min(model.distilled.steps) if model.distilled else 0,
        stages=spec.stages,
        frozen=contract.frozen,
    )


@dataclass(frozen=True)
class _Measured:
    """The part of a summary that describes one network."""

    blocks: list[BlockRow]
    parameters: int
    flops: int


_MEASURED: dict[str, _Measured] = {}
"""Networks by `_network_key`."""


def _network_key(spec: Spec, name: NetworkName, contract: Contract) -> str:
    """Equal for specs whose networks of this name have the same blocks, parameters and FLOPs."""

    def without_losses(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: without_losses(item) for key, item in value.items() if key not in ("weighting", "schedule")}

    content = without_losses(spec.to_dict())
    shapes = replace(contract, sampling={}, label_names=(), frozen=())
    sections = [name, "latent", "conditioning", *(("decoder", "final_decoder") if name == "distilled" else ())]
    return json.dumps([name, *(content[key] for key in sections), repr(shapes)], sort_keys=True)


def _measure_network(spec: Spec, name: NetworkName, model: UnifiedLatents) -> _Measured:
    part: nn.Module = getattr(model, name)
    parameters = sum(p.numel() for p in part.parameters())
    contract = model.contract
    x = torch.zeros(1, contract.channels, *contract.size, device="meta")
    z = torch.zeros(1, *contract.latent_shape, device="meta")
    if isinstance(part, ConditionalNetwork):
        expected = x_t = z if name in ("prior", "base") else x
        rows, flops, output = _measure(name, part.network, (x_t, x.new_zeros(1), _conditions(model, part, z)))
    elif name == "encoder":
        expected = torch.cat([z, z], dim=1) if contract.learned_variance else z
        control = model.rate_control(Conditions(), 1)
        rows, flops, output = _measure(name, part, (x,) if control is None else (x, control))
    else:  # a normal prior
        return _Measured([], parameters, 0)
    if output.shape != expected.shape:
        raise spec.error(name, f"returns shape {tuple(output.shape[1:])}, expected {tuple(expected.shape[1:])}")
    return _Measured(rows, parameters, flops)


def _conditions(model: UnifiedLatents, part: ConditionalNetwork, z: Tensor) -> NetworkConditions:
    """All conditions that a network takes, for one example, except labels, which cost nothing."""
    conditions = Conditions(text=_text(model.contract, z.device))
    if isinstance(part, DistilledDecoder):
        return model.decoder_conditions(part, z, conditions, steps=part.steps[0])
    if isinstance(part, DiffusionModel | RegressionDecoder) and part in (model.decoder, model.final_decoder):
        return model.decoder_conditions(part, z, conditions)
    assert isinstance(part, DiffusionModel)
    return model.latent_conditions(part, 1, conditions)


def _text(contract: Contract, device: torch.device) -> Text | None:
    """A caption of the maximal length, if the data has captions."""
    if not contract.text_width:
        return None
    tokens = torch.zeros(1, contract.text_tokens, contract.text_width, device=device)
    return Text(tokens, tokens.new_ones(1, contract.text_tokens, dtype=torch.bool))


def fold(rows: list[BlockRow]) -> list[tuple[int, BlockRow]]:
    """Merge consecutive equal blocks into one row "blocks.0-7" with the sums of their parameters and FLOPs.

    Returns:
        (number of blocks, row) pairs.
    """

    def identity(row: BlockRow) -> tuple[Any, ...]:
        return row.path.rpartition(".")[0], row.kind, row.output, row.parameters, row.flops

    folded = []
    for _, group in groupby(rows, identity):
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
    """Run a network and return its blocks, its FLOPs and its output."""
    outputs: dict[nn.Module, Tensor] = {}
    paths = dict(_blocks(network, name))

    def record_output(block: nn.Module, _: Any, output: Tensor | Text) -> None:
        outputs.setdefault(block, output.tokens if isinstance(output, Text) else output)

    hooks = [block.register_forward_hook(record_output) for block in paths.values()]
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
    """The blocks of a network with their paths: its children, and the elements of lists and stacks instead of those."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential | Transformer):
            yield from _blocks(child, f"{path}.{name}")
        elif any(True for _ in child.parameters()):
            yield f"{path}.{name}", child
