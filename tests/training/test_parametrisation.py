"""µP: which learning rates and initial weights depend on widths, and that features change equally at all widths."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ulzoo.nn import DenoiserInputs
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.nn.encoders import ResNetEncoder
from ulzoo.nn.transformer import CrossAttention
from ulzoo.nn.uvit import UViT
from ulzoo.nn.vit import ViT
from ulzoo.training.config import StageConfig
from ulzoo.training.optimizers import build_optimizer, parameter_groups
from ulzoo.training.parametrisation import learning_rate_scales, scale_initial_weights

INPUTS = DenoiserInputs((8, 8), 4, (4, 4), 8, num_classes=3)


def vit(width: int, heads: int | None = None) -> nn.Module:
    return ViT(INPUTS, patch=4, width=width, depth=1, heads=heads or width // 32)


def uvit(width: int) -> nn.Module:
    return UViT(INPUTS, patch=2, channels=(width // 4,), blocks=(1,), width=width, depth=1, heads=width // 32)


def encoder(width: int) -> nn.Module:
    return ResNetEncoder((8, 8), 3, 4, (4, 4), channels=(width, 2 * width), blocks=(1, 1))


def scales_by_name(network: nn.Module, proxy: nn.Module, optimizer: str = "adamw") -> dict[str, float]:
    scales = learning_rate_scales(network, proxy, optimizer)
    return {name: scale for (name, _), scale in zip(network.named_parameters(), scales, strict=True)}


# ----------------------------------------------------------------------------------------- the paper's coordinate check


def feature_changes(
    build: Callable[[int], nn.Module], width: int, proxy: int | None, optimizer: str
) -> dict[str, float]:
    """Root mean square of the change of every layer's output on a batch after four steps."""
    torch.manual_seed(0)
    network, scales = build(width), None
    if proxy:
        with torch.device("meta"):
            narrow = build(proxy)
        scale_initial_weights(network, narrow)
        scales = learning_rate_scales(network, narrow, optimizer)
    lr = {"adamw": 1e-2, "lion": 3e-3, "muon": 2e-2}[optimizer]
    stepper = build_optimizer(network, StageConfig(steps=9, batch_size=8, lr=lr, optimizer=optimizer), scales)
    for group in stepper.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn(2, 8, 4, 8, 8, generator=generator)
    latent, logsnr = torch.randn(8, 8, 4, 4, generator=generator), 3 * torch.randn(8, generator=generator)
    features: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)) or name.endswith("attention"):
            module.register_forward_hook(lambda _, inputs, output, name=name: features.update({name: output.detach()}))
    for step in range(5):
        output = network(x, logsnr, NetworkConditions(latent, labels=torch.arange(8) % 3))
        if step == 0:
            before = dict(features)
        (output - target).square().mean().backward()
        stepper.step()
        stepper.zero_grad()
    return {name: (features[name] - before[name]).square().mean().sqrt().item() for name in features}


def growth_with_width(
    build: Callable[[int], nn.Module], widths: list[int], mup: bool, optimizer: str
) -> dict[str, float]:
    """The exponent of the width to which the change of each layer's output is proportional, by least squares."""
    changes = [feature_changes(build, width, widths[0] if mup else None, optimizer) for width in widths]
    logs = torch.tensor([math.log(width) for width in widths])
    logs -= logs.mean()
    values = {name: torch.tensor([change[name] for change in changes]).log() for name in changes[0]}
    return {name: float(logs @ value / (logs @ logs)) for name, value in values.items()}


@pytest.mark.parametrize(
    ("build", "widths", "optimizer"),
    [
        (vit, [64, 128, 256, 512, 1024], "adamw"),
        (uvit, [64, 128, 256], "lion"),
        (vit, [32, 64, 128], "muon"),
    ],
)
def test_features_change_by_an_amount_that_does_not_depend_on_the_width(build, widths, optimizer):
    exponents = growth_with_width(build, widths, True, optimizer)
    assert len(exponents) > 10
    assert max(exponents.values()) < 0.2 and min(exponents.values()) > -0.2
    assert max(growth_with_width(build, widths[:3], False, optimizer).values()) > 0.4


# ------------------------------------------------------------------------------------------------------------ the rules


def test_learning_rates_of_kernels_fall_with_their_fan_in():
    wide, narrow = vit(128), vit(32)
    scales = scales_by_name(wide, narrow)
    hidden = {"attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2"}
    expected = {f"transformer.blocks.0.{name}.weight" for name in hidden}
    expected |= {
        f"{name}.weight" for name in ("cond.logsnr.mlp.2", "transformer.modulation", "out.modulation", "out.proj")
    }
    assert {name for name, scale in scales.items() if scale != 1} == expected
    assert {scales[name] for name in expected} == {1 / 4}


def test_muons_learning_rates_fall_by_less():
    scales = scales_by_name(vit(128), vit(32), "muon")
    assert scales["transformer.blocks.0.mlp.fc1.weight"] == 1 / 2
    assert scales["out.proj.weight"] == pytest.approx(1 / math.sqrt(2 * 4))  # 64 outputs: the longer side doubles
    assert scales["embed.weight"] == pytest.approx(math.sqrt(2))
    assert scales["transformer.offsets"] == scales["embed.bias"] == 1


def test_wider_heads_have_a_lower_temperature():
    wide, narrow = vit(128, heads=2), vit(32, heads=2)
    scale_initial_weights(wide, narrow)
    assert scales_by_name(wide, narrow)["transformer.blocks.0.attention.temperature"] == 1 / 2
    assert (wide.transformer.blocks[0].attention.temperature == 1 / 2).all()
    cross = CrossAttention(128, 64, 2, 0.0)
    scale_initial_weights(cross, CrossAttention(32, 64, 2, 0.0))
    assert (cross.temperature == 1 / 2).all()


def test_only_output_layers_start_with_other_weights():
    wide = encoder(32)
    fresh = copy.deepcopy(wide.state_dict())
    scale_initial_weights(wide, encoder(8))
    for name, tensor in wide.state_dict().items():
        assert torch.equal(tensor, fresh[name] / 2 if name == "out.weight" else fresh[name]), name


def test_decay_per_step_is_that_of_the_proxy():
    wide = vit(128)
    groups = parameter_groups(wide, 0.1, learning_rate_scales(wide, vit(32), "adamw"))
    assert {group["weight_decay"] * group.get("lr_scale", 1) for group in groups if group["params"]} == {0, 0.1}
    assert sum(len(group["params"]) for group in groups) == len(list(wide.parameters()))


def test_the_proxy_itself_is_parametrised_as_usual():
    network = vit(32)
    for ours, expected in zip(
        parameter_groups(network, 0.1, learning_rate_scales(network, vit(32), "adamw")),
        parameter_groups(network, 0.1),
        strict=True,
    ):
        assert [id(p) for p in ours.pop("params")] == [id(p) for p in expected.pop("params")]
        assert ours == expected


@pytest.mark.parametrize("proxy", [ViT(INPUTS, patch=4, width=32, depth=2, heads=1), uvit(32)], ids=["deeper", "other"])
def test_a_proxy_with_other_layers_is_refused(proxy):
    with pytest.raises(ValueError, match=r"^proxy differs in more than widths: see the parameters of "):
        learning_rate_scales(vit(32), proxy, "adamw")
