"""The memory of a training step, estimated by running one on fake tensors and tracking their storages.

Fake tensors have a shape, a type and a device but no content. Activations that autograd saves for the backward pass,
copies that autocast makes, and activation checkpointing are therefore accounted for; workspaces that an operation
allocates internally are not.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Stage
from ulzoo.model.losses import StageLoss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.schema import Spec
from ulzoo.training import config as configs
from ulzoo.training.optimizers import build_optimizer
from ulzoo.training.parallelize import checkpoint_activations, largest_shard
from ulzoo.training.parametrisation import trained_networks

EXAMPLES = 1009
"""Batch size of the fake step: a prime, so that a size divisible by it is proportional to the batch size."""


@dataclass(frozen=True)
class MemorySnapshot:
    """Memory allocated at one point of the step, in bytes.

    Attributes:
        fixed: independent of the batch size.
        per_example: proportional to the batch size.
        gradients: of the weights.
    """

    fixed: int
    per_example: int
    gradients: int

    def sort_key(self) -> tuple[int, int, int]:
        return self.per_example, self.fixed, self.gradients

    def dominates(self, other: "MemorySnapshot") -> bool:
        """Whether it is at least as large as the other one for every batch size and every share of the gradients."""
        fixed, gradients = self.fixed - other.fixed, self.gradients - other.gradients
        return self.per_example >= other.per_example and fixed >= 0 and fixed + gradients >= 0


@dataclass(frozen=True)
class StepMemory:
    """Memory of a training step, in bytes.

    Attributes:
        frozen: weights that are not trained.
        trained: trained weights, their averages and the optimizer's state.
        gradients: of all trained weights.
        snapshots: of the forward and backward pass; those that can be the peak.
        leading: size of the first dimension -> number of trained weights in tensors with it.
    """

    frozen: int
    trained: int
    gradients: int
    snapshots: tuple[MemorySnapshot, ...]
    leading: Mapping[int, int]

    @property
    def weights(self) -> int:
        """The number of trained weights."""
        return sum(self.leading.values())

    def largest_shard(self, shards: int) -> float:
        """The share of the trained weights of the first process, which has most."""
        return sum(largest_shard(rows, count, shards) for rows, count in self.leading.items()) / self.weights

    def peak(self, examples: int, shards: int = 1, keeps_gradients: bool = False) -> int:
        """Peak memory of a step.

        Args:
            examples: number of examples that one process computes at once.
            shards: number of processes over which FSDP shards the trained weights; the peak is the first one's.
            keeps_gradients: gradients are allocated throughout the step, by DDP or gradient accumulation.
        """
        share = self.largest_shard(shards)
        return self.frozen + max(
            snapshot.fixed
            + snapshot.per_example * examples
            + round(share * (self.trained + (self.gradients if keeps_gradients else snapshot.gradients)))
            for snapshot in self.snapshots
        )

    def max_examples(self, memory: int, shards: int = 1, keeps_gradients: bool = False) -> int:
        """The largest number of examples whose peak fits into `memory` bytes; 0 if none does."""
        low, high = 0, 1
        while high < 1 << 30 and self.peak(high, shards, keeps_gradients) <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle, shards, keeps_gradients) <= memory else (low, middle)
        return low


def step_memory(spec: Spec, stage: Stage, device: torch.device | str, bf16: bool) -> StepMemory:
    """Estimate the memory of a step of one stage; nothing is allocated on the device.

    Args:
        bf16: compute in bfloat16, by autocast.
    """
    device, config = torch.device(device), getattr(spec.train, stage)
    model = compile_model(spec, "meta")
    with FakeTensorMode():
        _replace_by_fake_tensors(model, device)
        parameters = model.prepare(stage)
        networks = trained_networks(model, stage)
        if spec.train.parallel and spec.train.parallel.checkpoint_activations:
            checkpoint_activations(networks)
        encoded = stage == "base" and spec.train.base is not None and spec.train.base.data is not None
        x, labels, text = _batch(model, device, encoded)
        cast = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
        with AllocationTracker(model) as tracker:
            tracker.track(x)
            with cast:
                loss = StageLoss(model, stage, encoded=encoded)(x, Conditions(labels, text))["loss"]
            loss.backward()
            del loss
    trained, weights = _bytes(parameters), _bytes(list(model.parameters()))
    averages = 1 + (len(config.posthoc_ema.lengths) if config.posthoc_ema else 0)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return StepMemory(
        frozen=weights - trained,
        trained=(1 + averages) * trained + _state_bytes(networks, config),
        gradients=_bytes(gradients),
        snapshots=tracker.snapshots(gradients),
        leading=_leading(parameters),
    )


class AllocationTracker(TorchDispatchMode):
    """Records when storages of tensors are allocated and freed, except those of a model's weights and buffers.

    Like an allocator, it records a free when the last tensor of a storage is deleted.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        self.references: dict[int, weakref.ref[Any]] = {}  # live storages by address
        self.events: list[tuple[int, int]] = []  # address and bytes, negative for a free

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.track(leaf)
        return out

    def track(self, tensor: Tensor) -> None:
        """Record the allocation of the tensor's storage, unless it is known already."""
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self.references or address in self.weights:
            return

        def on_free(_: Any) -> None:
            del self.references[address]
            self.events.append((address, -size))

        self.references[address] = weakref.ref(storage, on_free)
        self.events.append((address, size))

    def snapshots(self, gradients: list[Tensor]) -> tuple[MemorySnapshot, ...]:
        """The memory after every event, without snapshots that another one dominates."""
        gradient_addresses = {gradient.untyped_storage()._cdata for gradient in gradients}
        last = {address: i for i, (address, _) in enumerate(self.events)}  # addresses are reused; gradients come last
        totals: set[tuple[int, int, int]] = set()
        fixed = per_example = gradient_bytes = 0
        for i, (address, size) in enumerate(self.events):
            if address in gradient_addresses and last[address] == i:
                gradient_bytes += size
            elif size % EXAMPLES == 0:
                per_example += size // EXAMPLES
            else:
                fixed += size
            totals.add((fixed, per_example, gradient_bytes))
        peaks: list[MemorySnapshot] = []
        for snapshot in sorted((MemorySnapshot(*total) for total in totals), key=MemorySnapshot.sort_key, reverse=True):
            if not any(peak.dominates(snapshot) for peak in peaks):
                peaks.append(snapshot)
        return tuple(peaks)


def _replace_by_fake_tensors(model: UnifiedLatents, device: torch.device) -> None:
    """Replace parameters and buffers on `meta` by tensors of the active `FakeTensorMode` on `device`."""
    replacements: dict[int, nn.Parameter] = {}  # by id, because modules may share parameters
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = replacements.setdefault(id(parameter), nn.Parameter(_like(parameter, device)))
                module._parameters[name] = fake
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _like(buffer, device)


def _like(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def _batch(model: UnifiedLatents, device: torch.device, encoded: bool) -> tuple[Tensor, Tensor, Text | None]:
    contract = model.contract
    shape = contract.latent_shape if encoded else contract.shape
    text = None
    if contract.text_width:
        tokens = torch.empty(EXAMPLES, contract.text_tokens, contract.text_width, device=device)
        text = Text(tokens, torch.empty(tokens.shape[:2], dtype=torch.bool, device=device))
    return torch.empty(EXAMPLES, *shape, device=device), torch.empty(EXAMPLES, dtype=torch.long, device=device), text


def _leading(parameters: Iterable[Tensor]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    for parameter in parameters:
        counts[parameter.shape[0] if parameter.ndim else 1] += parameter.numel()
    return dict(counts)


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _state_bytes(networks: nn.Module, config: configs.StageConfig) -> int:
    """Bytes of the optimizer's state, from the bytes per value that a step on small layers allocates."""
    per_value: dict[int, float] = {}
    for ndim, layer in {1: nn.LayerNorm(64), 2: nn.Linear(64, 64), 4: nn.Conv2d(64, 64, 3)}.items():
        optimizer = build_optimizer(layer, config)
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        weight = layer.get_parameter("weight")
        state = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
        per_value[ndim] = _bytes(state) / weight.numel()
    return round(sum(p.numel() * per_value[{1: 1, 2: 2}.get(p.ndim, 4)] for p in networks.parameters()))
