"""Triton kernels for an H100, without one: the loss of a stage and its gradient, as Inductor compiles them.

The graph is traced on the CPU and moved to the device `cuda` as a graph of tensors without values. Where Inductor and
Triton ask for the device, the answers are those of an H100. Matrix products, convolutions and attention are kernels of
libraries; the others become Triton kernels, which are compiled to machine code.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from torch import Tensor, fx
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import PyCodeCache
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._triton import has_triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ulzoo.diffusion import ExampleNoise
from ulzoo.diffusion.recorded_noise import DrawnNoise
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Stage
from ulzoo.model.losses import StageLoss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.training.compilation import CompiledLoss
from ulzoo.training.parametrisation import trained_networks

TARGET = GPUTarget("cuda", 90, 32)
H100 = SimpleNamespace(
    **{"name": "NVIDIA H100 80GB HBM3", "major": 9, "minor": 0, "multi_processor_count": 132, "warp_size": 32},
    **{"regs_per_multiprocessor": 65536, "max_threads_per_multi_processor": 2048, "max_threads_per_block": 1024},
    **{"shared_memory_per_block": 49152, "shared_memory_per_block_optin": 232448, "total_memory": 80 * 2**30},
    **{"L2_cache_size": 50 * 2**20, "gcnArchName": "", "uuid": ""},
)


class _Driver:
    """What Triton asks the driver of a GPU."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def is_active(self) -> bool:
        return True


def compile_kernels(model: UnifiedLatents, stage: Stage, *, bf16: bool) -> dict[str, int]:
    """The Triton kernels of a prepared stage, for a batch of two: bytes of machine code by name."""
    graph, inputs = trace(model, stage, bf16=bf16)
    sources: dict[str, str] = {}

    def add(self: AsyncCompile, name: str, source: str, device_str: str) -> None:
        sources[name] = source

    with pretended_h100(), mock.patch.object(AsyncCompile, "triton", add):
        compile_fx_inner(graph, inputs)
        return {name: len(compile_kernel(name, source)) for name, source in sources.items()}


def compile_kernel(name: str, source: str) -> bytes:
    """Machine code of a kernel, in the first of the configurations that a GPU would choose from."""
    kernel = getattr(PyCodeCache.load(source), name)
    meta = kernel._create_compile_meta(kernel.configs[0])
    ast = ASTSource(kernel.fn, meta["signature"], meta["constants"], meta["configs"][0])
    options = kernel._create_compile_options(kernel.configs[0], meta)
    return triton.compile(ast, target=TARGET, options=options).asm["cubin"]


def trace(model: UnifiedLatents, stage: Stage, *, bf16: bool) -> tuple[fx.GraphModule, list[Tensor]]:
    """The loss and its gradient as one graph, and its inputs, on the device `cuda` and without values."""
    loss, contract = StageLoss(model, stage), model.contract
    x = torch.zeros(2, *contract.shape)
    conditions = Conditions(torch.zeros(2, dtype=torch.long) if contract.num_classes else None)
    noise = ExampleNoise([0, 1], 0, 0, 2)
    numbers = [draw(noise) for draw in CompiledLoss(loss, backend="eager")._record(x, conditions)]
    ids = {id(parameter) for parameter in trained_networks(model, stage).parameters()}
    trained = {name: parameter for name, parameter in loss.named_parameters() if id(parameter) in ids}

    def gradients(parameters: dict[str, Tensor], x: Tensor, numbers: list[Tensor]) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            terms = functional_call(loss, parameters, (x, conditions, DrawnNoise(2, numbers)))
        return terms["loss"], *torch.autograd.grad(terms["loss"], list(parameters.values()))

    graph = make_fx(gradients, select_decomp_table(), tracing_mode="fake", _allow_non_fake_inputs=True)(
        trained, x, numbers
    )
    graph.graph.set_codegen(fx.graph.CodeGen())  # inputs and outputs are lists
    lifted: list[Tensor] = []  # buffers and frozen weights become inputs
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            lifted.append(getattr(graph, node.target))
            with graph.graph.inserting_before(next(iter(graph.graph.nodes))):
                node.replace_all_uses_with(graph.graph.placeholder(f"lifted_{len(lifted)}"))
            graph.graph.erase_node(node)
        elif node.target is torch.ops.aten.view.default:  # convolutions on GPUs return other strides
            node.target = torch.ops.aten.reshape.default
        elif "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
    graph.recompile()
    mode = FakeTensorMode()
    with mode:
        values = [*reversed(lifted), *trained.values(), x, *numbers]
        inputs = [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device="cuda") for v in values]
    FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*inputs)
    return graph, inputs


@contextmanager
def pretended_h100() -> Iterator[None]:
    """PyTorch and Triton find an H100 that has no driver."""
    answers = {
        "get_device_properties": H100,
        "get_compute_capability": 90,
        "is_available": True,
        "current_device": 0,
    }
    functions = {"current_device": 0, "device_count": 1, "get_device_properties": H100, "get_device_capability": (9, 0)}
    with ExitStack() as stack:
        for name, answer in answers.items():
            answered = staticmethod(lambda device=None, answer=answer: answer)
            stack.enter_context(mock.patch.object(CudaInterface, name, answered))
        for name, answer in functions.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", lambda device=None, answer=answer: answer))
        has_triton.cache_clear()  # a compilation for the CPU before this one has found no GPU
        stack.callback(has_triton.cache_clear)
        stack.enter_context(mock.patch("torch.cuda._lazy_init", lambda: None))
        stack.enter_context(mock.patch("torch._inductor.runtime.triton_helpers.set_driver_to_gpu", lambda: None))
        stack.enter_context(config.patch(fx_graph_cache=False, compile_threads=1))
        stack.enter_context(mock.patch.object(triton.runtime.driver, "_active", _Driver()))
        yield
