"""What holds of video networks only: one frame is an image, causality, factorised attention and convolutions."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ulzoo.nn import DenoiserInputs, HierarchicalViT, ResNetEncoder, UViT, ViT, ViTEncoder
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.nn.convolution import Convolutions, ResBlock
from ulzoo.nn.transformer import Attention, attention_patterns

Size = tuple[int, ...]
Perturb = Callable[[nn.Module], nn.Module]

DENOISERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "vit": (ViT, {"patch": 2, "width": 24, "depth": 2, "heads": 2}),
    "vit_learned": (ViT, {"patch": 2, "width": 24, "depth": 2, "heads": 2, "positions": "learned"}),
    "vit_head": (ViT, {"patch": 2, "width": 24, "depth": 2, "heads": 2, "pixel_channels": 8}),
    "hierarchical_vit": (HierarchicalViT, {"channels": (24, 24), "blocks": (2, 2), "head_width": 12}),
    "uvit": (UViT, {"patch": 1, "channels": (8, 16), "blocks": (1, 1), "width": 24, "depth": 2, "heads": 2}),
}
ENCODERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "resnet": (ResNetEncoder, {"patch": 2, "channels": (8, 16, 16), "blocks": (1, 1, 1)}),
    "vit": (ViTEncoder, {"width": 24, "depth": 2, "heads": 2, "positions": "rotary"}),
    "vit_overlap": (ViTEncoder, {"width": 24, "depth": 2, "heads": 2, "positions": "rotary", "patch_overlap": 1}),
}
WAYS = [{}, {"attention": "factorised"}, {"causal": True}, {"attention": "factorised", "causal": True}]
CONVOLVED = [{}, {"convolution": "factorised"}, {"causal": True}, {"convolution": "factorised", "causal": True}]


def denoiser(kind: str, size: Size, latent: Size, frame_channels: int = 0, **keys: Any) -> nn.Module:
    torch.manual_seed(0)
    cls, fixed = DENOISERS[kind]
    if kind == "uvit" and keys.get("attention") == "factorised":
        keys["convolution"] = "factorised"
    return cls(DenoiserInputs(size, 3, latent, 5, num_classes=3, frame_channels=frame_channels), **fixed, **keys)


def encoder(kind: str, size: Size, downsample: Size, **keys: Any) -> nn.Module:
    torch.manual_seed(0)
    cls, fixed = ENCODERS[kind]
    return cls(size, 3, 5, downsample, **fixed, **keys)


def take(video: nn.Module, image: nn.Module) -> None:
    """Give a network over (1, h, w) the weights of one over (h, w): kernels gain an axis of extent 1, nothing else."""
    weights = image.state_dict()
    for name, tensor in video.state_dict().items():
        weight = weights.pop(name)
        tensor.copy_(weight.unsqueeze(2) if tensor.ndim == weight.ndim + 1 else weight)
    assert not weights


# --- one frame is an image -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", WAYS)
@pytest.mark.parametrize("kind", DENOISERS)
def test_a_denoiser_of_one_frame_is_that_of_an_image(kind: str, keys: dict[str, Any], perturb: Perturb) -> None:
    image = perturb(denoiser(kind, (8, 12), (4, 6), frame_channels=4, **keys))
    video = denoiser(kind, (1, 8, 12), (1, 4, 6), frame_channels=4, **keys)
    take(video, image)
    x_t, latent, frames = torch.randn(2, 3, 8, 12), torch.randn(2, 5, 4, 6), torch.randn(2, 4, 8, 12)
    logsnr, labels = torch.tensor([-1.0, 2.0]), torch.tensor([0, 2])
    expected = image(x_t, logsnr, NetworkConditions(latent, labels=labels, context_frames=frames))
    conditions = NetworkConditions(latent.unsqueeze(2), labels=labels, context_frames=frames.unsqueeze(2))
    prediction = video(x_t.unsqueeze(2), logsnr, conditions)
    assert expected.std() > 0
    torch.testing.assert_close(prediction.squeeze(2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "keys"), [("resnet", k) for k in CONVOLVED] + list(product(("vit", "vit_overlap"), WAYS))
)
def test_an_encoder_of_one_frame_is_that_of_an_image(kind: str, keys: dict[str, Any], perturb: Perturb) -> None:
    image = perturb(encoder(kind, (8, 16), (4, 4), **keys))
    video = encoder(kind, (1, 8, 16), (1, 4, 4), **keys)
    take(video, image)
    x = torch.randn(2, 3, 8, 16)
    torch.testing.assert_close(video(x.unsqueeze(2)).squeeze(2), image(x), rtol=1e-4, atol=1e-5)


# --- time and space apart --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("downsample", [(4, 8, 8), (1, 8, 8), (2, 4, 8), (4, 2, 2)])
def test_the_encoder_downsamples_time_and_space_apart(downsample: Size) -> None:
    with torch.device("meta"):
        network = ResNetEncoder((16, 16, 16), 3, 5, downsample, channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1))
        z_clean = network(torch.empty(2, 3, 16, 16, 16))
    assert z_clean.shape == (2, 5, *(16 // factor for factor in downsample))


@pytest.mark.parametrize("downsample", [(3, 8, 8), (4, 12, 8), (4, 1, 8)])
def test_what_halvings_cannot_pattern_is_said(downsample: Size) -> None:
    with pytest.raises(
        ValueError, match=r"patch \[1, 2, 2\] times powers of two does not reach it: latent.downsample asks for \["
    ):
        ResNetEncoder((96, 96, 96), 3, 5, downsample, channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1))


def test_the_kinetics_shapes() -> None:
    """16 frames of 128², 4×8×8: the decoder's middle has the latent's frames, and patches are spatial."""
    with torch.device("meta"):
        decoder = UViT(DenoiserInputs((16, 128, 128), 3, (4, 16, 16), 32))
        assert decoder.size == (4, 8, 8) and decoder.halvings == [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
        assert ViT(DenoiserInputs((16, 128, 128), 3), patch=(2, 8, 8)).size == (8, 16, 16)
        assert HierarchicalViT(DenoiserInputs((4, 16, 16), 32)).sizes == [(4, 16, 16), (4, 8, 8)]


# --- causality -------------------------------------------------------------------------------------------------------


def latest_frames(network: Callable[[Tensor], Tensor], x: Tensor, stride: int) -> list[int]:
    """For each group of `stride` output frames, the last frame of x that it depends on, by gradient."""
    x = x.clone().requires_grad_(True)
    out = network(x)
    latest = []
    for start in range(0, out.shape[2], stride):
        (gradient,) = torch.autograd.grad(
            out[:, :, start : start + stride].square().sum(), x, retain_graph=True, allow_unused=True
        )
        latest.append(int(gradient.abs().sum((0, 1, 3, 4)).nonzero().max()))
    return latest


@pytest.mark.parametrize("keys", [{}, {"convolution": "factorised"}])
def test_a_causal_resnet_does_not_see_the_future(keys: dict[str, Any], perturb: Perturb) -> None:
    x = torch.randn(1, 3, 8, 8, 8)
    causal = perturb(encoder("resnet", (8, 8, 8), (2, 4, 4), causal=True, **keys))
    assert latest_frames(causal, x, 1) == [1, 3, 5, 7]
    assert latest_frames(perturb(encoder("resnet", (8, 8, 8), (2, 4, 4), **keys)), x, 1) == [7] * 4


@pytest.mark.parametrize("keys", [{}, {"attention": "factorised"}])
def test_a_causal_vit_encoder_does_not_see_the_future(keys: dict[str, Any], perturb: Perturb) -> None:
    x = torch.randn(1, 3, 8, 8, 8)
    causal = perturb(encoder("vit", (8, 8, 8), (2, 4, 4), causal=True, **keys))
    assert latest_frames(causal, x, 1) == [1, 3, 5, 7]
    assert latest_frames(perturb(encoder("vit", (8, 8, 8), (2, 4, 4), **keys)), x, 1) == [7] * 4


@pytest.mark.parametrize("keys", [{}, {"attention": "factorised"}])
@pytest.mark.parametrize("kind", DENOISERS)
def test_a_causal_denoiser_does_not_see_the_future(kind: str, keys: dict[str, Any], perturb: Perturb) -> None:
    x, logsnr, labels = torch.randn(1, 3, 4, 8, 8), torch.zeros(1), torch.tensor([1])
    latent = torch.randn(1, 5, 2, 4, 4)
    stride = 2 if kind == "uvit" else 1  # its first stage halves time, down to the latent's

    def bound(causal: bool) -> Callable[[Tensor], Tensor]:
        network = perturb(denoiser(kind, (4, 8, 8), (2, 4, 4), causal=causal, **keys))
        return lambda x_t: network(x_t, logsnr, NetworkConditions(latent, labels=labels))

    assert latest_frames(bound(True), x, stride) == list(range(stride - 1, 4, stride))
    assert latest_frames(bound(False), x, stride) == [3] * (4 // stride)


# --- factorised ------------------------------------------------------------------------------------------------------


def meets(pattern: Any, size: Size, at: tuple[int, int, int]) -> Tensor:
    """Which tokens the output at `at` depends on, as a boolean grid."""
    torch.manual_seed(0)
    attention = Attention(16, 2, 0.0)
    n = size[0] * size[1] * size[2]
    tokens = torch.randn(1, n, 16, requires_grad=True)
    out = attention(tokens, pattern).reshape(1, *size, 16)
    (gradient,) = torch.autograd.grad(out[(0, *at)].square().sum(), tokens)
    return (gradient.abs().sum((0, 2)) > 0).reshape(size)


@pytest.mark.parametrize("causal", [False, True])
def test_factorised_attention_takes_turns(causal: bool) -> None:
    size, at = (3, 2, 4), (1, 1, 2)
    space, time = attention_patterns(size, 8, "factorised", causal)
    frame, place = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    frame[1] = True
    place[: 2 if causal else 3, 1, 2] = True
    assert torch.equal(meets(space, size, at), frame)
    assert torch.equal(meets(time, size, at), place)


def test_the_turns_of_one_frame_are_an_images() -> None:
    (only,) = attention_patterns((1, 4, 4), 8, "factorised", causal=False)
    assert only.axes == "all"


def test_groups_are_put_back_where_they_were() -> None:
    tokens = torch.randn(2, 24, 5)
    for pattern in attention_patterns((3, 2, 4), 0, "factorised", causal=False):
        assert torch.equal(pattern.join(pattern.split(tokens)), tokens)


def test_factorised_convolutions_start_as_an_images_on_every_frame() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, 6)
    for causal in (False, True):
        layer = Convolutions("factorised", causal).same((5, 6, 6), 4, 6)
        first, bias = layer[0], layer[-1].bias  # type: ignore[index]
        torch.testing.assert_close(layer(x), first(x) + bias[:, None, None, None])


def test_a_factorised_block_learns_from_its_zero_start() -> None:
    """Zeroing both halves of the last convolution would leave each without a gradient for ever."""
    torch.manual_seed(0)
    block = ResBlock((4, 6, 6), 4, 4, convolutions=Convolutions("factorised"))
    x = torch.randn(2, 4, 4, 6, 6)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.conv2[-1].weight.grad.any()  # type: ignore[index, union-attr]


def test_factorised_costs_less() -> None:
    def parameters(kind: str) -> int:
        with torch.device("meta"):
            network = ResNetEncoder(
                (8, 8, 8), 3, 5, (4, 4, 4), channels=(16, 32, 32), blocks=(1, 1, 1), convolution=kind
            )  # type: ignore[arg-type]
        return sum(p.numel() for p in network.parameters())

    assert parameters("factorised") < 0.6 * parameters("full")


# --- context frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DENOISERS)
def test_context_frames_count_in_the_examples_that_have_them(kind: str, perturb: Perturb) -> None:
    network = perturb(denoiser(kind, (4, 8, 8), (2, 4, 4), frame_channels=4))
    x_t, logsnr, latent = torch.randn(2, 3, 4, 8, 8), torch.zeros(2), torch.randn(2, 5, 2, 4, 4)
    frames = torch.zeros(2, 4, 4, 8, 8)
    out = network(x_t, logsnr, NetworkConditions(latent, context_frames=frames))
    frames[0] = 1
    other = network(x_t, logsnr, NetworkConditions(latent, context_frames=frames))
    assert out.shape == x_t.shape
    assert not torch.allclose(other[0], out[0]) and torch.allclose(other[1], out[1], rtol=1e-4, atol=1e-5)
