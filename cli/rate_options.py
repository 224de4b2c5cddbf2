"""Options of the commands that use variable-rate models: at which loss factor and bias, and errors that name them."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents

LossFactor = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Loss factor of a variable-rate model: higher for more bits; default: the middle of its range.",
        show_default=False,
    ),
]
Bias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Bias of a model that was trained over a range of it; default: the middle of that range.",
        show_default=False,
    ),
]


def set_rate(name: str, model: "UnifiedLatents", loss_factor: float | None = None, bias: float | None = None) -> None:
    """Change the default loss factor and bias of a model where they are given.

    Args:
        name: of the model, for errors.

    Raises:
        ValueError: the model has one loss factor or bias, or the value is outside its range.
    """
    check_loss_factors(name, model, () if loss_factor is None else (loss_factor,))
    if bias is not None:
        _check(name, model, "bias", "--bias", bias)
    model.set_rate(loss_factor=loss_factor, bias=bias)


def check_loss_factors(name: str, model: "UnifiedLatents", loss_factors: tuple[float, ...]) -> None:
    """Raise ValueError unless the model was trained at all these loss factors."""
    for factor in loss_factors:
        _check(name, model, "loss_factor", "--loss-factor", factor)


def parse_loss_factors(text: str | None) -> tuple[float, ...]:
    """The different numbers of a comma-separated list; () without one. Raises ValueError."""
    try:
        factors = tuple(map(float, text.split(","))) if text is not None else ()
    except ValueError:
        raise ValueError(f"--loss-factor {text}: takes numbers with commas between them, such as 1,2,4") from None
    if len(set(factors)) < len(factors):
        raise ValueError(f"--loss-factor {text}: has the same number twice")
    return factors


def _check(name: str, model: "UnifiedLatents", control: str, option: str, value: float) -> None:
    ranges = {str(key): ends for key, ends in model.rate_range.items()}
    if control not in ranges:
        raise ValueError(f"{name}: was trained at one {control.replace('_', ' ')}, so {option} has no effect")
    low, high = ranges[control]
    if not low <= value <= high:
        raise ValueError(f"{option} {value:g}: {name} was trained from {low:g} to {high:g}")
