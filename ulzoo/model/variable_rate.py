"""The methods of a variable-rate model: its range, its default, and the loss factor that gives a number of bits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ulzoo.diffusion import IndependentNoise
from ulzoo.model.arguments import check_arguments
from ulzoo.model.conditioning import Conditions
from ulzoo.model.networks import NOTHING, LatentNetwork, ModelNetworks
from ulzoo.model.rate_control import ControlName, ControlValue

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents

BISECTIONS = 12  # of the logarithm of the range, to 1/4096 of it
DRAWS = 8  # of (t, ε) for each rate


class VariableRateModel(ModelNetworks):
    """The part of `UnifiedLatents` for models whose loss factor or bias has a range."""

    @property
    def rate_range(self) -> dict[ControlName, tuple[float, float]]:
        """The smallest and the largest loss factor and bias that calls may give; {} for a model of one rate."""
        return {control.name: (control.low, control.high) for control in self.contract.rate_controls}

    @property
    def default_rate(self) -> dict[str, float]:
        """The loss factor and bias of calls that give none, of those that vary; {} for a model of one rate."""
        return self.contract.default_rate

    def trained_at_default(self, network: LatentNetwork) -> bool:
        """Whether a network was trained at the default loss factor and bias; a base may have a part of the range."""
        try:
            self.contract.check_base_rate(NOTHING, network)
        except ValueError:
            return False
        return True

    def set_rate(self, *, loss_factor: float | None = None, bias: float | None = None) -> None:
        """Change the default loss factor and bias, of all methods. Raises ValueError outside `rate_range`."""
        values = {name: value for name, value in (("loss_factor", loss_factor), ("bias", bias)) if value is not None}
        for name, value in values.items():
            self.contract.check_rate(name, value, None)
        controls = self.contract.rate_controls
        controls = tuple(replace(control, default=values.get(control.name, control.default)) for control in controls)
        self.contract = replace(self.contract, rate_controls=controls)

    def quantize_rate(self, conditions: Conditions, n: int) -> list[tuple[int, ...]]:
        """Loss factor and bias of each of n examples as integers, for streams; () for a model of one rate."""
        columns = [control.quantize(getattr(conditions, control.name), n) for control in self.contract.rate_controls]
        return list(zip(*columns, strict=True)) or [()] * n

    def dequantize_rate(self, levels: Sequence[Sequence[int]]) -> Conditions:
        """The conditions that levels of `quantize_rate` stand for."""
        columns = dict(zip(self.rate_range, zip(*levels, strict=True), strict=True))
        values = {
            control.name: control.dequantize(columns[control.name], self.device)
            for control in self.contract.rate_controls
        }
        return Conditions(loss_factor=values.get("loss_factor"), bias=values.get("bias"))

    @check_arguments
    @torch.no_grad()
    def find_loss_factor(self, x: Tensor, *, bits: float, bias: ControlValue | None = None) -> Tensor:
        """The loss factor at which the latent of each x has a rate of `bits`, (B,), by bisection.

        An end of the range where the rate does not reach so far. The rates are those of `rate` with the same noise for
        all loss factors, by which they rise.

        Args:
            x: (B, C, *size) in [-1, 1].
            bits: bits in the latent of each example, the bound by the prior.
            bias: see `RateOptions`.

        Raises:
            ValueError: the model has one loss factor.
        """
        if "loss_factor" not in self.rate_range:
            raise ValueError("this model has one loss factor, so its rate cannot be chosen")
        ends = torch.tensor(self.rate_range["loss_factor"], device=self.device).log()
        low, high = (end.expand(len(x)) for end in ends)  # (B,)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            noise = IndependentNoise(range(len(x)), 0, device=self.device)
            model = cast("UnifiedLatents", self)
            rate = model.rate(x, samples=DRAWS, generator=noise, loss_factor=middle.exp(), bias=bias)
            low, high = torch.where(rate < bits, middle, low), torch.where(rate < bits, high, middle)
        return ((low + high) / 2).exp()
