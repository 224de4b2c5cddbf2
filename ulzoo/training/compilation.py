"""torch.compile of a stage: block by block, or its loss as one graph."""

import os
import shutil
import sys

import torch
from torch import Tensor, nn

from ulzoo.diffusion import ExampleNoise
from ulzoo.diffusion.recorded_noise import Draw, DrawnNoise, NoiseRecorder
from ulzoo.model.conditioning import Conditions
from ulzoo.model.losses import StageLoss
from ulzoo.training.parallelize import BLOCKS, trainable_networks


def compile_blocks(networks: nn.ModuleDict) -> None:
    """Compile block by block. Equal blocks share their compiled code, which takes seconds rather than minutes.

    A network without any of our blocks is compiled as one.

    Raises:
        ValueError: the networks are on the CPU, and there is no C++ compiler.
    """
    _prepare_compiler(next(networks.parameters()).device)
    for network in trainable_networks(networks):
        blocks: list[nn.Module] = [module for module in network.modules() if isinstance(module, BLOCKS)]
        for module in blocks or [network]:
            module.compile()


def _prepare_compiler(device: torch.device) -> None:
    """Raise ValueError on the CPU without a C++ compiler."""
    torch._dynamo.config.recompile_limit = 64  # per function; networks differ in width, heads and conditioning
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if device.type == "cpu" and not shutil.which(compiler):
        raise ValueError(f"compile: needs a C++ compiler on the CPU, and {compiler} is not installed; set CXX")


class CompiledLoss(nn.Module):
    """A stage's loss as one graph, and its gradient as another: small operations between the networks are fused too.

    The random numbers are inputs of the graph. What the loss draws is recorded in a first pass in evaluation mode,
    whose result is not used, so that a resumed run computes each step as an undisturbed one does.

    Args:
        loss: the loss; batches have one size.
        backend: of torch.compile.

    Raises:
        ValueError: the networks are on the CPU, and there is no C++ compiler.
    """

    def __init__(self, loss: StageLoss, *, backend: str = "inductor") -> None:
        super().__init__()
        if backend == "inductor":
            _prepare_compiler(loss.model.device)
        self.loss = loss
        self.draws: list[Draw] | None = None
        self._compiled = torch.compile(self._loss, fullgraph=True, backend=backend)

    def forward(
        self, x: Tensor, conditions: Conditions, noise: ExampleNoise, prior_gradient: float = 1.0
    ) -> dict[str, Tensor]:
        """The same as the loss itself, up to rounding."""
        if self.draws is None:
            self.draws = self._record(x, conditions)
        numbers = [draw(noise) for draw in self.draws]
        gradient = torch.full((), prior_gradient, device=x.device)  # a number would be compiled into the graph
        return self._compiled(x, conditions, numbers, gradient)

    def _loss(self, x: Tensor, conditions: Conditions, numbers: list[Tensor], gradient: Tensor) -> dict[str, Tensor]:
        return self.loss(x, conditions, DrawnNoise(len(x), numbers), gradient)

    @torch.no_grad()
    def _record(self, x: Tensor, conditions: Conditions) -> list[Draw]:
        noise, modes = NoiseRecorder(len(x), x.device), {module: module.training for module in self.modules()}
        self.eval()  # schedules do not learn from it
        self.loss(x, conditions, noise)
        for module, training in modes.items():
            module.training = training
        return noise.requests
