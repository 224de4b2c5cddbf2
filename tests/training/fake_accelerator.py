"""One step of training on an accelerator that does not exist, and what it copies to it and waits for.

The device is PyTorch's backend for other vendors with the kernels of `FakeTensorMode`, which compute shapes, dtypes and
devices but no values. A process cannot unregister it, so `main` is called in a process of its own.
"""

import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import ulzoo
from ulzoo.data import Batch
from ulzoo.diffusion import noise
from ulzoo.media.captions import Text
from ulzoo.model.contract import Contract, Stage
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model, compile_proxy
from ulzoo.runtime import devices
from ulzoo.training.trainer import Trainer, TrainerOptions

PACKAGE = str(Path(ulzoo.__file__).parent)
NAME = "fakegpu"

COPIES = ("_to_copy", "copy_", "_foreach_copy_")
WAITS = ("_local_scalar_dense", "equal", "is_nonzero", "item")
DATA_DEPENDENT = ("nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "repeat_interleave")
RANDOM = ("normal_", "uniform_", "rand", "randn", "randint", "random_", "_philox_normal_", "_philox_uniform_")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
AUTOCAST = ("linear", "matmul", "bmm", "conv2d", "conv3d", "scaled_dot_product_attention")


class FakeAccelerator(FakeTensorMode):
    """Within it, tensors on the device `fakegpu` have no values. A copied model keeps the mode."""

    def __deepcopy__(self, memo: object) -> "FakeAccelerator":
        return self


class HostData(TorchFunctionMode):
    """Makes a tensor of Python numbers on the host and copies it in an operation of its own, which is counted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None) if func in (torch.tensor, torch.as_tensor) else None
        result = func(*args, **kwargs)
        if device is None or torch.device(device).type == "cpu":
            return result
        return torch.empty(result.shape, dtype=result.dtype, device=device).copy_(result)


class Transfers(TorchDispatchMode):
    """Counts, by kind and the function of ulzoo that asks: copies between host and device, waits, unknown shapes.

    And "random numbers", the operations that draw some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, inputs = func._schema.name.partition("::")[2], devices_of((args, kwargs))
        if name in WAITS and NAME in inputs:
            self._count("wait")
        if name in RANDOM:
            self.counts["random numbers"] += 1
        if name in DATA_DEPENDENT or (name in INDEXING and has_mask(args[1])):
            self._count("unknown shape")
        if name in INDEXING and args[0].device.type == NAME and "cpu" in devices_of(args[1]):
            self._count("to device")
        result = func(*args, **(kwargs or {}))
        if name in COPIES:
            in_place = name.endswith("copy_")
            target, source = (devices_of(args[0]), devices_of(args[1])) if in_place else (devices_of(result), inputs)
            if "cpu" in source and NAME in target:
                self._count("to device")
            if NAME in source and "cpu" in target:
                self._count("to host")
        return result

    def _count(self, kind: str) -> None:
        frame = sys._getframe()
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        self.counts[f"{kind}: {frame.f_code.co_qualname if frame else 'PyTorch'}"] += 1


def devices_of(values: Any) -> set[str]:
    return {value.device.type for value in tree_leaves(values) if isinstance(value, Tensor)}


def has_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class _HostGenerator(torch.Generator):
    """A generator of the host that says it is the device's, which has none."""

    def __new__(cls, device: object = None) -> "_HostGenerator":
        return super().__new__(cls)

    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0)


def register() -> list[torch.library.Library]:
    """Register the device, with autocast to bfloat16; the result must stay referenced."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    torch.Generator = _HostGenerator  # type: ignore[misc]
    devices.has_bf16 = lambda device: True
    if noise.KEYS:
        noise.example_streams = noise.KeyStreams.of  # as on a GPU
    torch.nn.init.dirac_ = lambda tensor, groups=1: tensor  # one operation a channel, of values that nobody reads
    fallthrough = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    fallthrough.fallback(torch.library.fallthrough_kernel)
    casts = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for name in AUTOCAST:
        casts.impl(name, partial(in_bf16, getattr(torch.ops.aten, name).default))
    return [fallthrough, casts]


def in_bf16(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """An operation on its inputs in bfloat16, as autocast computes it."""

    def cast(x: Tensor) -> Tensor:
        return x.to(torch.bfloat16) if x.is_floating_point() else x

    excluded = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    with torch._C._ExcludeDispatchKeyGuard(excluded):
        return operation(*tree_map_only(Tensor, cast, args), **tree_map_only(Tensor, cast, kwargs))


def step(spec: Any, stage: Stage, folder: Path) -> Counter[str]:
    """What a step of a stage copies and waits for, by kind and function of ulzoo."""
    config = getattr(spec.train, stage)
    with FakeAccelerator(), HostData():
        model = compile_model(spec, torch.device(NAME, 0), pretrained=False)
        options = TrainerOptions({}, proxy=compile_proxy(spec, stage))
        source: Any = SimpleNamespace(encoded=False)
        trainer = Trainer(model, stage, config, source, folder, options)
        trainer.step = 1  # within warm-ups
        batch = examples(trainer.local_batch, model.contract)
        with Transfers() as transfers:
            trainer._step(batch)
    return transfers.counts


def examples(n: int, contract: Contract) -> Batch:
    x, label, text = torch.zeros(n, *contract.shape), torch.zeros(n, dtype=torch.long), None
    if contract.text_tokens:
        mask = torch.ones(n, contract.text_tokens, dtype=torch.bool)
        text = Text(torch.zeros(n, contract.text_tokens, contract.text_width), mask)
    return {"x": x, "label": label, "text": text, "key": [], "images": n, "skipped": {}}


def action(function: Callable[[Tensor], object]) -> Counter[str]:
    """What a function of a vector on the device copies and waits for."""
    errors = (DataDependentOutputException, DynamicOutputShapeException)
    with FakeAccelerator(), HostData(), Transfers() as transfers, suppress(*errors):
        function(torch.zeros(3, device=NAME))
    return transfers.counts


ACTIONS: dict[str, Callable[[Tensor], object]] = {
    "a number": lambda x: torch.as_tensor(1.5, device=x.device),
    "a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a tensor": lambda x: torch.zeros(3).to(x),
    "in place": lambda x: x.copy_(torch.zeros(3)),
    "a list of tensors": lambda x: torch._foreach_copy_([x], [torch.zeros(3)]),
    "an index": lambda x: x[torch.arange(2)],
    "a filled number": lambda x: x.new_full((), 1.5) + 1.5,
    "a result": lambda x: x.cpu(),
    "item": lambda x: x.sum().item(),
    "a condition": lambda x: bool(x.sum() > 0),
    "a mask": lambda x: x[x > 0],
    "values at a mask": lambda x: x.index_put_([x > 0], x.sum()),
    "nonzero": lambda x: x.nonzero(),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
    "a shape that is known": lambda x: torch.where(x > 0, x, 1.0)[x.long()],
}


def main(cases: Mapping[str, tuple[str, Sequence[str], Stage]], folder: Path) -> None:
    """Write the counts of each case, (spec, overrides, stage), and of all actions to `folder`/counts.json.

    A case that fails has its traceback as its only key.
    """
    libraries = register()
    assert libraries
    counts = {name: action(function) for name, function in ACTIONS.items()}
    for name, (spec, overrides, stage) in cases.items():
        try:
            counts[name] = step(load_spec(spec, overrides), stage, folder)
        except Exception as error:
            counts[name] = Counter(["".join(traceback.format_tb(error.__traceback__)) + str(error)[:300]])
    (folder / "counts.json").write_text(json.dumps(counts))
