"""The blocks of a network with their FLOPs, measured on "meta", or recorded for the networks of packaged specs.

The first measurement in a process imports PyTorch's compiler, which takes seconds; `make costs` records networks.json.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ulzoo.files.atomic import write_text
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import NETWORKS, Contract, NetworkName
from ulzoo.model.denoisers import ConditionalNetwork, DiffusionModel, RegressionDecoder
from ulzoo.model.distillation import DistilledDecoder
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.nn.transformer import Transformer
from ulzoo.registry.spec.schema import Spec

RECORDED = Path(__file__).with_name("networks.json")
"""The networks of packaged specs by `network_key`: parameters, FLOPs, and the fields of every `BlockRow`."""


@dataclass(frozen=True)
class BlockRow:
    """A block of a network: path, class, output shape without the batch, parameters, forward FLOPs."""

    path: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class NetworkSummary:
    """A network in numbers: its blocks, and parameters and forward FLOPs of all of it."""

    blocks: tuple[BlockRow, ...]
    parameters: int
    flops: int


def summarize_network(spec: Spec, name: NetworkName, model: UnifiedLatents) -> NetworkSummary:
    """A network of a compiled spec: measured, which takes most of the time, once per process unless it is recorded.

    Raises:
        SpecError: the shape of its output is wrong.
    """
    key = network_key(spec, name, model.contract)
    if key not in _MEASURED:
        recorded = read_recorded().get(key)
        unchanged = recorded is not None and recorded.parameters == _count_parameters(getattr(model, name))
        _MEASURED[key] = recorded if recorded and unchanged else measure_network(spec, name, model)
    return _MEASURED[key]


_MEASURED: dict[str, NetworkSummary] = {}
"""Networks by `network_key`."""


@cache
def read_recorded() -> dict[str, NetworkSummary]:
    """The networks of `RECORDED`."""
    networks = json.loads(RECORDED.read_text("utf-8"))
    return {
        key: NetworkSummary(
            tuple(BlockRow(path, kind, tuple(output), *counts) for path, kind, output, *counts in blocks),
            parameters,
            flops,
        )
        for key, (parameters, flops, blocks) in networks.items()
    }


def write_recorded(networks: dict[str, NetworkSummary]) -> None:
    """Write `RECORDED`, a line per network."""
    lines = []
    for key, network in sorted(networks.items()):
        content = [network.parameters, network.flops, [astuple(row) for row in network.blocks]]
        lines.append(f"{json.dumps(key)}:{json.dumps(content, separators=(',', ':'))}")
    write_text(RECORDED, "{\n" + ",\n".join(lines) + "\n}\n")


def measure_networks(spec: Spec, model: UnifiedLatents) -> dict[str, NetworkSummary]:
    """All networks of a spec that was compiled on "meta", by `network_key`."""
    names = [name for name in NETWORKS if getattr(model, name) is not None]
    return {network_key(spec, name, model.contract): measure_network(spec, name, model) for name in names}


def network_key(spec: Spec, name: NetworkName, contract: Contract) -> str:
    """Equal for specs whose networks of this name have the same blocks, parameters and FLOPs."""

    def without_losses(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: without_losses(item) for key, item in value.items() if key not in ("weighting", "schedule")}

    content = without_losses(spec.to_dict())
    shapes = replace(contract, sampling={}, label_names=(), frozen=())
    sections = [name, "latent", "conditioning", *(("decoder", "final_decoder") if name == "distilled" else ())]
    text = json.dumps([name, *(content[key] for key in sections), repr(shapes)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def measure_network(spec: Spec, name: NetworkName, model: UnifiedLatents) -> NetworkSummary:
    """Run a network on one example, and check the shape of its output. Raises SpecError."""
    part: nn.Module = getattr(model, name)
    parameters = _count_parameters(part)
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
        return NetworkSummary((), parameters, 0)
    if output.shape != expected.shape:
        raise spec.error(name, f"returns shape {tuple(output.shape[1:])}, expected {tuple(expected.shape[1:])}")
    return NetworkSummary(tuple(rows), parameters, flops)


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


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


class RepeatedOperations(TorchDispatchMode):
    """Run an operation on "meta" once for all inputs of the same layout: PyTorch's kernels there take milliseconds.

    As there are no values, a result can be shared by all calls; views are cheap, and belong to their tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[Any, Any] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation.is_view:
            return operation(*args, **kwargs)
        key = operation, _layout(args), _layout(tuple(kwargs.items()))
        if key not in self.results:
            self.results[key] = operation(*args, **kwargs)
        return self.results[key]


def _layout(value: Any) -> Any:
    """What the shape and the dtype of a result depend on."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(map(_layout, value))
    return type(value), value


def _measure(name: str, network: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[BlockRow], int, Tensor]:
    """Run a network and return its blocks, its FLOPs and its output."""
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    outputs: dict[nn.Module, Tensor] = {}
    paths = dict(_blocks(network, name))

    def record_output(block: nn.Module, _: Any, output: Tensor | Text) -> None:
        outputs.setdefault(block, output.tokens if isinstance(output, Text) else output)

    hooks = [block.register_forward_hook(record_output) for block in paths.values()]
    with torch.no_grad(), RepeatedOperations(), FlopCounterMode(display=False) as counter:
        output = network(*inputs)
    for hook in hooks:
        hook.remove()
    counts, root = counter.get_flop_counts(), type(network).__name__
    rows = [
        BlockRow(
            path,
            type(block).__name__,
            tuple(outputs[block].shape[1:]),
            _count_parameters(block),
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
