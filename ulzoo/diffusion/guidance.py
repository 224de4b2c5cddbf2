"""Classifier-free guidance (arXiv 2207.12598) within an interval of log-SNR (arXiv 2404.07724)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Both = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Guidance:
    """unconditional + scale · (conditional - unconditional), in place of the conditional prediction.

    At one noise level x̂, ε̂ and v̂ are affine in each other, so the formula means the same in each of them.

    Args:
        both: (x_t, logsnr (B,)) -> the predictions with conditions and without, in one pass over both.
        scale: 1 leaves the conditional model as it is; more follows the condition more closely.
        interval: (lowest, highest) log-SNR that is guided; None guides everywhere.
    """

    both: Both
    scale: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"the guidance interval must rise, got {self.interval[0]} to {self.interval[1]}")

    def applies(self, logsnr: float) -> bool:
        """Whether it changes anything at this level; elsewhere the conditional network alone does."""
        return self.scale != 1 and (self.interval is None or self.interval[0] <= logsnr <= self.interval[1])

    def __call__(self, x_t: Tensor, logsnr: Tensor) -> Tensor:
        conditional, unconditional = self.both(x_t, logsnr)
        return unconditional + self.scale * (conditional - unconditional)
