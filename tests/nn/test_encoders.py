from collections.abc import Callable

import pytest
import torch
from torch import nn

from ulzoo.nn import ResNetEncoder, ViTEncoder
from ulzoo.nn.convolution import ResBlock

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


STAGES = {  # latent.downsample -> (width, blocks, the grid is halved before it) of each stage, blocks: [2, 2, 2, 3]
    4: [(8, 2, False), (12, 2, True), (20, 2, False), (20, 3, False)],
    8: [(8, 2, False), (12, 2, True), (20, 2, True), (20, 3, False)],
    16: [(8, 2, False), (12, 2, True), (20, 2, True), (20, 3, True)],
    32: [(8, 2, False), (12, 2, True), (20, 2, True), (20, 2, True), (20, 3, True)],
    64: [(8, 2, False), (12, 2, True), (20, 2, True), (20, 2, True), (20, 2, True), (20, 3, True)],
}


def parameters_by_hand(stages: list[tuple[int, int, bool]], latent_channels: int) -> int:
    """Of a ResNet encoder of images of 3 channels in patches of 2×2."""

    def conv(kernel: int, c_in: int, c_out: int) -> int:
        return kernel**2 * c_in * c_out + c_out

    width = stages[0][0]
    total = conv(3, 3 * 4, width)
    for stage_width, depth, halved in stages:
        total += conv(2, width, width) if halved else 0
        for _ in range(depth):
            norms = 2 * width + 2 * stage_width
            skip = conv(1, width, stage_width) if width != stage_width else 0
            total += norms + conv(3, width, stage_width) + conv(3, stage_width, stage_width) + skip
            width = stage_width
    return total + 2 * width + conv(3, width, latent_channels)


@pytest.mark.parametrize("channels", [4, 64])
@pytest.mark.parametrize("downsample", STAGES)
def test_one_spec_reaches_every_shape_of_the_latent(downsample: int, channels: int) -> None:
    encoder = ResNetEncoder((64, 128), 3, channels, (downsample,) * 2, channels=(8, 12, 20, 20), blocks=(2, 2, 2, 3))
    z_clean = encoder(torch.zeros(1, 3, 64, 128))
    assert z_clean.shape == (1, channels, 64 // downsample, 128 // downsample)
    assert sum(p.numel() for p in encoder.parameters()) == parameters_by_hand(STAGES[downsample], channels)


def test_further_stages_have_the_blocks_of_the_last_but_one_and_the_last_keeps_its_own() -> None:
    encoder = ResNetEncoder((64, 64), 3, 5, (32, 32), channels=(8, 12, 12), blocks=(1, 2, 3))
    grids: list[int] = []
    for block in encoder.modules():
        if isinstance(block, ResBlock):
            block.register_forward_hook(lambda *call: grids.append(call[2].shape[2]))
    encoder(torch.zeros(1, 3, 64, 64))
    assert grids == [32, 16, 16, 8, 8, 4, 4, 2, 2, 2]


def test_a_single_stage_goes_on_with_its_own_blocks() -> None:
    encoder = ResNetEncoder((32, 32), 3, 5, (8, 8), channels=(8,), blocks=(2,))
    stages = [(8, 2, False), (8, 2, True), (8, 2, True)]
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 5, 4, 4)
    assert sum(p.numel() for p in encoder.parameters()) == parameters_by_hand(stages, 5)


def test_time_stops_being_halved_where_space_goes_on() -> None:
    encoder = ResNetEncoder((4, 32, 16), 3, 5, (2, 16, 8), channels=(8, 8), blocks=(1, 1))
    assert encoder(torch.zeros(1, 3, 4, 32, 16)).shape == (1, 5, 2, 2, 2)


def test_overlapping_patches_are_patches_and_what_is_around_them() -> None:
    """Kernels that are zero around the patches embed the patches; other kernels see two pixels of the neighbours."""

    def encoder(patch_overlap: int | None) -> ViTEncoder:
        return ViTEncoder((16, 16), 3, 5, (4, 4), width=24, depth=0, heads=2, patch_overlap=patch_overlap)

    plain, lapped = encoder(None), encoder(2)
    weights = plain.state_dict()
    kernel = torch.zeros(24, 3, 8, 8)
    kernel[:, :, 2:6, 2:6] = weights["embed.weight"].unflatten(1, (3, 4, 4))
    lapped.load_state_dict({**weights, "embed.weight": kernel})
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(lapped(x), plain(x))
    torch.nn.init.normal_(lapped.embed.weight)
    changed = x.clone()
    changed[:, :, 4:6, 8] += 1  # inside patch (1, 2), within two pixels of its upper and its left neighbours
    differs = (lapped(changed) - lapped(x)).abs().amax((0, 1)) > 1e-4  # (4, 4)
    assert differs.nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViTEncoder((8, 8), 3, 5, (4, 4), patch_overlap=0), r"^patch_overlap must be positive or null, got 0$"),
        (lambda: ViTEncoder((8, 6), 3, 5, (4, 4)), r"latent.downsample \[4, 4\] does not divide the grid \[8, 6\]"),
        (lambda: ViTEncoder((8, 8), 3, 5, (2, 4, 4)), r"latent.downsample \[2, 4, 4\] has 3 dimensions, the grid"),
        (
            lambda: ResNetEncoder((8, 8), 3, 5, (4, 4), patch=8, channels=(8,), blocks=(1,)),
            r"^patch \[8, 8\] times powers of two does not reach it: latent.downsample asks for \[4, 4\]$",
        ),
        (
            lambda: ResNetEncoder((12, 12), 3, 5, (6, 6), patch=2, channels=(8,), blocks=(1,)),
            r"^patch \[2, 2\] times powers of two .* latent.downsample asks for \[6, 6\]$",
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
