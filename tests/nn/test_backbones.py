"""Properties of every denoiser network, in two and three dimensions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ulzoo.nn import DenoiserInputs, HierarchicalViT, UViT, ViT
from ulzoo.nn.conditioning import NetworkConditions, VectorConditioning

Size = tuple[int, ...]
Make = Callable[..., nn.Module]
Perturb = Callable[[nn.Module], nn.Module]


def make_inputs(size: Size, n: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "x_t": torch.randn(n, 3, *size, generator=generator),
        "logsnr": torch.linspace(-4, 4, n),
        "latent": torch.randn(n, 5, *(s // 4 for s in size), generator=generator),
        "labels": torch.arange(n) % 4,
    }


def run(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The network's prediction of `make_inputs`."""
    return network(inputs["x_t"], inputs["logsnr"], NetworkConditions(inputs["latent"], labels=inputs["labels"]))


def test_a_fresh_network_predicts_zero(make_backbone: Make, size: Size) -> None:
    out = run(make_backbone(size, latent=True, num_classes=4), make_inputs(size))
    assert out.shape == (3, 3, *size) and out.dtype == torch.float32
    assert (out == 0).all()


def test_shape_without_latent_and_labels(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    inputs = make_inputs(size)
    out = perturb(make_backbone(size))(inputs["x_t"], inputs["logsnr"])
    assert out.shape == (3, 3, *size) and out.std() > 0


def test_gradient_reaches_every_parameter_and_input(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, inputs = perturb(make_backbone(size, latent=True, num_classes=3)), make_inputs(size, n=4)
    inputs["labels"] = torch.tensor([0, 1, 2, -1])
    inputs["x_t"].requires_grad_(True)
    inputs["latent"].requires_grad_(True)
    run(network, inputs).square().sum().backward()
    for name, tensor in [*network.named_parameters(), *inputs.items()]:
        if tensor.is_floating_point() and tensor.requires_grad:
            assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), name


def test_every_input_counts(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, inputs = perturb(make_backbone(size, latent=True, num_classes=4)).eval(), make_inputs(size)
    out = run(network, inputs)
    for name, other in [("x_t", -inputs["x_t"]), ("logsnr", inputs["logsnr"] + 1), ("latent", inputs["latent"] + 1)]:
        assert not torch.allclose(run(network, {**inputs, name: other}), out), name
    assert not torch.allclose(run(network, {**inputs, "labels": inputs["labels"].flip(0)})[0], out[0])


def test_examples_are_independent_and_eval_is_deterministic(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network = perturb(make_backbone(size, latent=True, num_classes=4)).eval()
    inputs = make_inputs(size, n=4)
    together = run(network, inputs)
    assert torch.equal(run(network, inputs), together)
    order = torch.tensor([2, 0])
    alone = run(network, {name: value[order] for name, value in inputs.items()})
    torch.testing.assert_close(alone, together[order], rtol=1e-4, atol=1e-5)


def test_a_dropped_label_is_none_is_minus_one(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, inputs = perturb(make_backbone(size, num_classes=4)).eval(), make_inputs(size)
    x_t, logsnr = inputs["x_t"], inputs["logsnr"]
    without = network(x_t, logsnr)
    assert torch.equal(network(x_t, logsnr, NetworkConditions(labels=torch.full((3,), -1))), without)
    assert not torch.allclose(network(x_t, logsnr, NetworkConditions(labels=torch.zeros(3, dtype=torch.long))), without)
    mixed = network(x_t, logsnr, NetworkConditions(labels=torch.tensor([-1, 0, -1])))
    torch.testing.assert_close(mixed[[0, 2]], without[[0, 2]])


def test_position_matters(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    """A network without positions would only permute its output when patches swap places."""
    network, inputs = perturb(make_backbone(size)).eval(), make_inputs(size)
    x_t, logsnr = inputs["x_t"], inputs["logsnr"]
    half = size[-2] // 2
    swapped = network(x_t.roll(half, dims=-2), logsnr).roll(half, dims=-2)
    assert not torch.allclose(swapped, network(x_t, logsnr), rtol=1e-2, atol=1e-3)


def test_compiles_on_the_meta_device(make_backbone: Make, size: Size) -> None:
    with torch.device("meta"):
        network = make_backbone(size, latent=True, num_classes=4)
        out = run(network, {name: value.to("meta") for name, value in make_inputs(size).items()})
    assert out.shape == (3, 3, *size) and out.is_meta
    assert all(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])


def test_bfloat16_autocast_is_close_to_single_precision(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, inputs = perturb(make_backbone(size, latent=True, num_classes=4)).eval(), make_inputs(size)
    exact = run(network, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        fast = run(network, inputs).float()
    assert (fast - exact).norm() < 0.05 * exact.norm()


def test_dropout_drops_in_training_only() -> None:
    inputs = make_inputs((8, 4))
    for network in (
        ViT(DenoiserInputs((8, 4), 3), width=24, depth=1, heads=2, dropout=0.5),
        HierarchicalViT(DenoiserInputs((8, 4), 3), channels=(12, 24), blocks=(2, 1), head_width=12, dropout=0.5),
        UViT(DenoiserInputs((8, 4), 3), patch=1, channels=(8,), blocks=(1,), width=24, depth=1, heads=2, dropout=0.5),
    ):
        torch.manual_seed(0)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
        draws = [network(inputs["x_t"], inputs["logsnr"]) for _ in range(2)]
        assert not torch.equal(*draws)
        network.eval()
        draws = [network(inputs["x_t"], inputs["logsnr"]) for _ in range(2)]
        assert torch.equal(*draws)


@pytest.mark.parametrize("backbone", ["hierarchical_vit", "uvit"])
def test_fine_detail_passes_by_the_coarse_levels(backbone: str, perturb: Perturb) -> None:
    """With nothing coming up from the coarser grid, the skip still carries x_t to the output."""
    inputs, shapes = make_inputs((8, 4)), DenoiserInputs((8, 4), 3)
    network: HierarchicalViT | UViT
    if backbone == "uvit":
        network = UViT(shapes, patch=1, channels=(8, 12), blocks=(1, 1), width=24, depth=1, heads=2)
        perturb(network)
        coarse = network.grow
    else:
        network = HierarchicalViT(shapes, channels=(12, 24), blocks=(2, 1), head_width=12)
        perturb(network)
        coarse = network.splits
    for parameter in coarse.parameters():
        nn.init.zeros_(parameter)
    out = network(inputs["x_t"], inputs["logsnr"])
    assert (out - network(-inputs["x_t"], inputs["logsnr"])).abs().mean() > 0.1 * out.abs().mean()


# --- labels ----------------------------------------------------------------------------------------------------------


def test_the_callers_labels_are_left_alone() -> None:
    cond = VectorConditioning(DenoiserInputs((4, 4), 1, num_classes=2), 8)
    labels = torch.tensor([0, 1, -1, 0])
    cond(torch.zeros(4), NetworkConditions(labels=labels))
    assert labels.tolist() == [0, 1, -1, 0]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViT(DenoiserInputs((8, 6), 3), patch=4), r"patch \[4, 4\] does not divide the grid \[8, 6\]"),
        (lambda: ViT(DenoiserInputs((8, 8), 3), patch=0), r"patch \[0, 0\] does not divide the grid"),
        (lambda: ViT(DenoiserInputs((8, 8), 3), width=20, heads=3), "heads 3 does not divide the width 20"),
        (lambda: ViT(DenoiserInputs((8, 8), 3), width=20, heads=0), "heads 0 does not divide the width 20"),
        (lambda: ViT(DenoiserInputs((8, 8), 3), width=12, heads=4), "need an even head width of at least 4, got 3"),
        (lambda: ViT(DenoiserInputs((8, 8), 3), width=8, heads=4), "need an even head width of at least 4, got 2"),
        (lambda: ViT(DenoiserInputs((8, 8), 3, (3, 3), 2), width=8, heads=2), r"\[3, 3\].*\[8, 8\] do not nest"),
        (
            lambda: HierarchicalViT(DenoiserInputs((8, 8), 3), channels=(64,), blocks=(2, 2)),
            r"channels \[64\] and blocks \[2, 2\] must have one entry per level",
        ),
        (
            lambda: HierarchicalViT(DenoiserInputs((8, 8), 3), channels=(64, 64), blocks=(3, 2)),
            r"blocks \[3, 2\]: all but the last level",
        ),
        (
            lambda: HierarchicalViT(DenoiserInputs((8, 8), 3), channels=(32, 64), blocks=(2, 2), head_width=48),
            r"head_width 48 does not divide all of channels \[32, 64\]",
        ),
        (
            lambda: HierarchicalViT(DenoiserInputs((8, 6), 3), patch=2, channels=(64, 64), blocks=(2, 2)),
            r"merging of 2×2 tokens \[2, 2\] does not divide the grid \[4, 3\]",
        ),
        (
            lambda: UViT(DenoiserInputs((8, 8), 3), channels=(8, 8), blocks=(1,)),
            r"channels \[8, 8\] and blocks \[1\] must have one entry per stage",
        ),
        (
            lambda: UViT(DenoiserInputs((8, 8), 3), channels=(8, 8, 8), blocks=(1, 1, 1)),
            r"halving by 3 stages \[8, 8\] does not divide the grid \[4, 4\]",
        ),
    ],
)
def test_mistakes_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_learned_positions_take_any_head_width() -> None:
    network = ViT(DenoiserInputs((2, 2), 3), width=6, heads=2, depth=1, positions="learned")
    assert network(torch.randn(1, 3, 2, 2), torch.zeros(1)).shape == (1, 3, 2, 2)
