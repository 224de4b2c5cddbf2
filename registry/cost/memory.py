"""The memory of a training step, from a step without data: which tensors are alive after every operation.

Autograd runs on fake tensors, which have a shape, a type and a device but no content. So what it keeps for the backward
pass, what autocast casts, what checkpointing computes again are as they will be; memory that an operation takes for
itself alone is not seen.
"""

import weakref
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
from ulzoo.model.contract import STAGES, Stage
from ulzoo.model.losses import StageLoss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.schema import Spec
from ulzoo.training import config as configs
from ulzoo.training.optimizers import build_optimizer
from ulzoo.training.parallelize import checkpoint_activations

EXAMPLES = 1009
"""Of the batch without data: a prime, so that what is divisible by it grows with the batch, and nothing else is."""


@dataclass(frozen=True)
class MemorySnapshot:
    """What is alive at one time: bytes whatever the batch, bytes of each example, bytes of the weights' gradients."""

    fixed: int
    per_example: int
    gradients: int

    def order(self) -> tuple[int, int, int]:
        return self.per_example, self.fixed, self.gradients

    def above(self, other: "MemorySnapshot") -> bool:
        """Whether no batch and no share of the gradients makes the other one the larger."""
        more, gradients = self.fixed - other.fixed, self.gradients - other.gradients
        return self.per_example >= other.per_example and more >= 0 and more + gradients >= 0


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step.

    Attributes:
        frozen: weights that are not trained.
        trained: trained weights, their average and the optimizer's state.
        gradients: of all trained weights.
        moments: the forward and backward pass, as far as one of them may be the peak.
    """

    frozen: int
    trained: int
    gradients: int
    moments: tuple[MemorySnapshot, ...]

    def peak(self, examples: int, shards: int = 1, keeps_gradients: bool = False) -> int:
        """The most that is alive at a time.

        Args:
            examples: computed at once in one process.
            shards: processes that share what is trained among them, by FSDP.
            keeps_gradients: gradients of earlier parts of a batch, or DDP's, are there all through.
        """
        return self.frozen + max(
            moment.fixed
            + moment.per_example * examples
            + (self.trained + (self.gradients if keeps_gradients else moment.gradients)) // shards
            for moment in self.moments
        )

    def most_examples(self, memory: int, shards: int = 1, keeps_gradients: bool = False) -> int:
        """How many fit into so many bytes; 0 if none does."""
        low, high = 0, 1
        while high < 1 << 30 and self.peak(high, shards, keeps_gradients) <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle, shards, keeps_gradients) <= memory else (low, middle)
        return low


def step_memory(spec: Spec, stage: Stage, device: torch.device | str, bf16: bool) -> StepMemory:
    """What a step of one stage takes on a device, which need not have that memory.

    Args:
        bf16: compute in it, by autocast.
    """
    device, config = torch.device(device), getattr(spec.train, stage)
    model = compile_model(spec, "meta")
    with FakeTensorMode():
        _make_anew(model, device)
        parameters = model.prepare(stage)
        networks = nn.ModuleDict({name: getattr(model, name) for name in STAGES[stage]})
        if spec.train.parallel and spec.train.parallel.checkpoint_activations:
            checkpoint_activations(networks)
        encoded = stage == "base" and spec.train.base is not None and spec.train.base.data is not None
        x, labels, text = _batch(model, device, encoded)
        cast = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
        with AllocationTracker(model) as alive:
            alive.watch(x)
            with cast:
                loss = StageLoss(model, stage, encoded=encoded)(x, Conditions(labels, text))["loss"]
            loss.backward()
            del loss
    trained, weights = _bytes(parameters), _bytes(list(model.parameters()))
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return StepMemory(
        frozen=weights - trained,
        trained=2 * trained + _state_bytes(networks, config),
        gradients=_bytes(gradients),
        moments=alive.moments(gradients),
    )


class AllocationTracker(TorchDispatchMode):
    """Notes when the storage of a tensor comes and goes, but for those of a model's weights.

    A free is noted when the last tensor of a storage is gone, as an allocator would.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        self.references: dict[int, weakref.ref[Any]] = {}  # by address, of storages that are alive
        self.events: list[tuple[int, int]] = []  # address and bytes, which are negative when they go

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.watch(leaf)
        return out

    def watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self.references or address in self.own:
            return

        def gone(_: Any) -> None:
            del self.references[address]
            self.events.append((address, -size))

        self.references[address] = weakref.ref(storage, gone)
        self.events.append((address, size))

    def moments(self, gradients: list[Tensor]) -> tuple[MemorySnapshot, ...]:
        """What was alive after every event, without those when no more was than at another time."""
        kept = {gradient.untyped_storage()._cdata for gradient in gradients}
        last = {address: i for i, (address, _) in enumerate(self.events)}  # a gradient is the last at its address
        found: set[tuple[int, int, int]] = set()
        now = [0, 0, 0]
        for i, (address, size) in enumerate(self.events):
            if address in kept and last[address] == i:
                now[2] += size
            elif size % EXAMPLES == 0:
                now[1] += size // EXAMPLES
            else:
                now[0] += size
            found.add((now[0], now[1], now[2]))
        best: list[MemorySnapshot] = []
        for moment in sorted((MemorySnapshot(*each) for each in found), key=MemorySnapshot.order, reverse=True):
            if not any(other.above(moment) for other in best):
                best.append(moment)
        return tuple(best)


def _make_anew(model: UnifiedLatents, device: torch.device) -> None:
    """Give a model on `meta` weights of the fake tensors' mode."""
    anew: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = anew.setdefault(id(parameter), nn.Parameter(_like(parameter, device)))
                module._parameters[name] = made
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


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _state_bytes(networks: nn.Module, config: configs.StageConfig) -> int:
    """Of an optimizer's state: after a step on small weights it is known how many bytes a weight's value takes."""
    per_value: dict[int, float] = {}
    for ndim, layer in {1: nn.LayerNorm(64), 2: nn.Linear(64, 64), 4: nn.Conv2d(64, 64, 3)}.items():
        optimizer = build_optimizer(layer, config)
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        weight = layer.get_parameter("weight")
        held = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
        per_value[ndim] = _bytes(held) / weight.numel()
    return round(sum(p.numel() * per_value[{1: 1, 2: 2}.get(p.ndim, 4)] for p in networks.parameters()))
