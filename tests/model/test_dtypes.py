"""Models in half, bfloat16 and double precision, other default dtypes, and outputs and inputs that cannot be right."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import ulzoo
from ulzoo.model.denoisers import NonFiniteOutput
from ulzoo.model.unified_latents import UnifiedLatents

METHODS: dict[str, Callable[[UnifiedLatents, Tensor], Tensor]] = {
    "encode": lambda model, x: model.encode(x),
    "sample": lambda model, x: model.sample(2, labels=[0, 3], guidance=1.5, steps=2, generator=seeded()),
    "reconstruct": lambda model, x: model.reconstruct(x, generator=seeded()),
    "rate": lambda model, x: model.rate(x, samples=2, generator=seeded()) / 1000,
    "base rate": lambda model, x: model.rate(x, network="base", generator=seeded()) / 1000,
}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=seeded(), dtype=torch.float32) * 2 - 1


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    model = ulzoo.load("emoji32_tiny")
    return {name: method(model, images()) for name, method in METHODS.items()}


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_of_another_dtype_is_close(expected: dict[str, Tensor], dtype: torch.dtype, name: str) -> None:
    model = ulzoo.load("emoji32_tiny").to(dtype)
    for x in (images(), images().to(dtype)):
        result = METHODS[name](model, x)
        assert result.dtype in (torch.float32, torch.float64) and result.isfinite().all()
        tolerance = {torch.float64: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.5}[dtype]
        assert (result.float() - expected[name]).square().mean().sqrt() < tolerance * expected[name].std()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_default_dtype_changes_no_bit(
    expected: dict[str, Tensor], default_dtype: Callable[[torch.dtype], None], dtype: torch.dtype
) -> None:
    model = ulzoo.load("emoji32_tiny")
    default_dtype(dtype)
    for name, method in METHODS.items():
        assert torch.equal(method(model, images()), expected[name]), name


def test_the_noise_level_of_a_bf16_model_is_not_rounded() -> None:
    model, rounded = ulzoo.load("emoji32_tiny"), ulzoo.load("emoji32_tiny").to(torch.bfloat16)
    assert model.base is not None and rounded.base is not None
    frequency = model.base.network.cond.logsnr.frequency  # type: ignore[union-attr]
    assert torch.equal(rounded.base.network.cond.logsnr.frequency, frequency)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(("network", "name"), [("base", "base"), ("distilled", "decoder")])
def test_nan_names_the_network_and_the_first_example(network: str, name: str) -> None:
    model = ulzoo.load("emoji32_tiny")
    part = getattr(model, network).network
    predict = part.forward

    def broken(x_t: Tensor, *inputs: object) -> Tensor:
        prediction = predict(x_t, *inputs)
        prediction[2:] = float("nan")
        return prediction

    part.forward = broken
    with pytest.raises(NonFiniteOutput, match=f"the {name} returned NaN or infinity for example 2 of 4"):
        model.sample(4, generator=seeded())


def test_a_rate_that_is_nan_is_an_error() -> None:
    model = ulzoo.load("emoji32_tiny")
    with torch.no_grad():
        next(model.encoder.parameters())[0] = float("inf")
    with pytest.raises(NonFiniteOutput, match="the prior returned NaN or infinity for example 0 of 2"):
        model.rate(images())


@pytest.mark.parametrize("method", ["encode", "reconstruct", "rate"])
def test_pixels_of_another_range_or_dtype_are_refused(method: str) -> None:
    model = ulzoo.load("emoji32_tiny")
    with pytest.raises(ValueError, match=r"x must be in \[-1, 1\], got values up to 255"):
        getattr(model, method)(torch.full((1, 3, 32, 32), 255.0))
    with pytest.raises(ValueError, match=r"x must be floating point in \[-1, 1\], got torch.uint8"):
        getattr(model, method)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_counts_below_one_are_refused() -> None:
    model = ulzoo.load("emoji32_tiny")
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        model.rate(images(), samples=0)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        model.sample(0)
