from collections.abc import Callable

import pytest
import torch
from torch import nn

from ulzoo.nn import ResNetEncoder, ViTEncoder

Size = tuple[int, ...]
Make = Callable[[Size], nn.Module]


def test_shape_and_gradients(make_encoder: Make, size: Size, perturb: Callable[[nn.Module], nn.Module]) -> None:
    encoder = perturb(make_encoder(size))
    x = torch.randn(2, 3, *size, requires_grad=True)
    z_clean = encoder(x)
    assert z_clean.shape == (2, 5, *(s // 4 for s in size))
    z_clean.square().sum().backward()
    for name, tensor in [*encoder.named_parameters(), ("x", x)]:
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), name


def test_a_fresh_encoder_already_tells_examples_apart(make_encoder: Make, size: Size) -> None:
    z_clean = make_encoder(size)(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert (z_clean[0] - z_clean[1]).abs().mean() > 0.01


def test_examples_are_independent_and_eval_is_deterministic(
    make_encoder: Make, size: Size, perturb: Callable[[nn.Module], nn.Module]
) -> None:
    encoder, x = perturb(make_encoder(size)).eval(), torch.randn(4, 3, *size)
    together = encoder(x)
    assert torch.equal(encoder(x), together)
    torch.testing.assert_close(encoder(x[[2, 0]]), together[[2, 0]], rtol=1e-4, atol=1e-5)


def test_compiles_on_the_meta_device(make_encoder: Make, size: Size) -> None:
    with torch.device("meta"):
        assert make_encoder(size)(torch.empty(2, 3, *size)).shape == (2, 5, *(s // 4 for s in size))


def test_bfloat16_autocast_is_close_to_single_precision(make_encoder: Make, size: Size) -> None:
    encoder, x = make_encoder(size).eval(), torch.randn(4, 3, *size)
    with torch.autocast("cpu", torch.bfloat16):
        fast = encoder(x).float()
    assert (fast - encoder(x)).norm() < 0.05 * encoder(x).norm()


def test_the_papers_encoder_downsamples_by_sixteen() -> None:
    with torch.device("meta"):
        z_clean = ResNetEncoder((512, 512), 3, 32, (16, 16))(torch.empty(1, 3, 512, 512))
    assert z_clean.shape == (1, 32, 32, 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViTEncoder((8, 6), 3, 5, (4, 4)), r"latent.downsample \[4, 4\] does not divide the grid \[8, 6\]"),
        (lambda: ViTEncoder((8, 8), 3, 5, (2, 4, 4)), r"latent.downsample \[2, 4, 4\] has 3 dimensions, the grid"),
        (
            lambda: ResNetEncoder((8, 8), 3, 5, (4, 4), patch=2, channels=(8,), blocks=(1,)),
            r"patch \[2, 2\] and 1 stages downsample by \[2, 2\] to \[2, 2\] .* latent.downsample asks for \[4, 4\]",
        ),
        (
            lambda: ResNetEncoder((8, 6), 3, 5, (4, 4), patch=2, channels=(8, 8), blocks=(1, 1)),
            r"latent.downsample \[4, 4\] does not divide the grid \[8, 6\]",
        ),
        (
            lambda: ResNetEncoder((8, 8), 3, 5, (4, 4), channels=(8, 8), blocks=(1,)),
            r"channels \[8, 8\] and blocks \[1\] must have one entry per stage",
        ),
    ],
)
def test_mistakes_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
