"""Variable rate: loss factor and bias as conditions of the networks, so that one model has the whole curve.

Not in the paper, whose models have one loss factor and one bias each. The optimal encoder, prior and decoder are
functions of both; a variable-rate model is trained over a range of either and given them as it is given noise levels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ulzoo.coding.stream import MAX_LEVEL
from ulzoo.diffusion import Noise, spread_evenly
from ulzoo.diffusion.noise import GOLDEN_RATIO
from ulzoo.diffusion.weightings import between

ControlName = Literal["loss_factor", "bias"]
ControlValue = Tensor | Sequence[float] | float
MAX_WATER_LEVEL = 100.0
STEPS: dict[ControlName, float] = {"loss_factor": GOLDEN_RATIO, "bias": 2**0.5}
"""The names of the controls, in the order of a network's condition, and the irrational steps of `spread_evenly`."""


@dataclass(frozen=True)
class RateControl:
    """A loss factor or bias that varies.

    Attributes:
        name: which of the two.
        low, high: the range of the encoder, the prior and the decoder.
        base: the range of the base, within it; one number twice for a base of one rate.
        default: the value where a call gives none.
    """

    name: ControlName
    low: float
    high: float
    base: tuple[float, float]
    default: float

    @classmethod
    def of(cls, name: ControlName, ends: tuple[float, float], base: tuple[float, float] | None) -> "RateControl":
        """The default is the middle of the base's range, by default the whole range; in logarithm for loss factors."""
        low, high = base or ends
        default = (low * high) ** 0.5 if name == "loss_factor" else (low + high) / 2
        return cls(name, *ends, (low, high), low if low == high else default)

    def positions(self, value: ControlValue | None, n: int, device: torch.device) -> Tensor:
        """What the networks get for a value, or for one of each of n examples: where in the range it is, (n,)."""
        value = self.default if value is None else value
        if isinstance(value, int | float):
            return torch.full((n,), self._position(torch.tensor(float(value))).item(), device=device)
        return self._position(torch.as_tensor(value, device=device).float()).expand(n)

    def _position(self, value: Tensor) -> Tensor:
        if self.name == "loss_factor":
            return (value / self.low).log() / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def check(self, value: object, n: int | None) -> None:
        """Raise TypeError or ValueError unless it is a number within the range, or one for each of n examples."""
        try:
            values = torch.as_tensor(value)
        except Exception:  # torch and NumPy raise errors of many classes
            values = torch.tensor(False)
        if isinstance(value, str | bytes | Mapping | set) or values.dtype == torch.bool or values.is_complex():
            raise TypeError(f"{self.name} must be a number, or one for each example, got {type(value).__name__}")
        if values.ndim and values.shape != (n,):
            raise ValueError(f"{self.name} must be a number or of shape ({n},), got {tuple(values.shape)}")
        self._check_range(values.float(), (self.low, self.high), "the model was trained")

    def check_base(self, value: ControlValue | None) -> None:
        """Raise ValueError unless the base was trained at a checked value."""
        values = torch.as_tensor(self.default if value is None else value, dtype=torch.float32)
        self._check_range(values, self.base, "the base was trained")

    def _check_range(self, values: Tensor, ends: tuple[float, float], trained: str) -> None:
        margin = 1e-4 * (1 + abs(ends[1]))  # of rounding, in logarithm
        outside = ~((values >= ends[0] - margin) & (values <= ends[1] + margin))  # also NaN
        if values.device.type != "meta" and outside.any():
            where = f"from {ends[0]:g} to {ends[1]:g}" if ends[0] < ends[1] else f"{ends[0]:g}"
            raise ValueError(f"{self.name} must be {where}, as {trained}, got {values[outside].flatten()[0]:g}")

    def draw(self, n: int, generator: Noise | None, device: torch.device, *, base: bool) -> Tensor:
        """Values for n examples in training, (n,): spread evenly over the range, loss factors in logarithm."""
        u = spread_evenly(n, STEPS[self.name], generator, device)
        return between(self.name, self.base if base else (self.low, self.high), u)

    def log_gain(self) -> list[float]:
        """The log gain of the latent of Gaussian data: coefficients of a polynomial of the position; 0 in the middle.

        The variance of x given z_0 is inversely proportional to the squared gain. The optimum is the water level.
        """
        positions = np.linspace(0, 1, 33)
        squared = between(self.name, (self.low, self.high), positions)  # in logarithm: the level falls by e^{-b}
        if self.name == "loss_factor":
            squared = -np.log([water_level(factor) for factor in squared])
        return np.polynomial.polynomial.polyfit(positions, (squared - squared[16]) / 2, 6).tolist()

    def quantize(self, value: ControlValue | None, n: int) -> list[int]:
        """The value of each of n examples as one of `MAX_LEVEL` + 1 that are spread over the range, for streams."""
        positions = self.positions(value, n, torch.device("cpu"))
        return (positions * MAX_LEVEL).round().clamp(0, MAX_LEVEL).long().tolist()

    def dequantize(self, levels: Sequence[int], device: torch.device) -> Tensor:
        """The values that numbers of `quantize` stand for, (n,)."""
        positions = torch.tensor(levels, device=device, dtype=torch.float32) / MAX_LEVEL
        return between(self.name, (self.low, self.high), positions)


def water_level(loss_factor: float) -> float:
    """c in the level c e^{-b} of reverse water-filling: of each dimension, z_0 leaves the variance min(s², c e^{-b}).

    With v = c e^{-b} the derivatives of the rate, ½ log(s²/v), and of the distortion of an optimal decoder cancel where
    c_lf ∫ sigmoid(b - λ) v e^λ / (1 + v e^λ)² dλ = c_lf c (c - 1 - ln c) / (c - 1)² = 1, whatever the bias b. Levels of
    loss factors near 1 and below are cut off: there every latent collapses.
    """
    low, high = 1e-12, MAX_WATER_LEVEL
    for _ in range(100):
        c = math.sqrt(low * high)
        slope = 0.5 if abs(c - 1) < 1e-4 else c * (c - 1 - math.log(c)) / (c - 1) ** 2
        low, high = (c, high) if slope < 1 / loss_factor else (low, c)
    return low
