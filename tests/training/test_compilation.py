"""Blocks and losses compile without a break: with one they would run in parts, and CUDA graphs would be impossible."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ulzoo.diffusion import ExampleNoise, rand, randn
from ulzoo.diffusion.recorded_noise import DrawnNoise, NoiseRecorder
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Stage
from ulzoo.model.losses import StageLoss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import Spec, load_spec
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.compilation import CompiledLoss
from ulzoo.training.parallelize import BLOCKS, checkpoint_activations, trainable_networks
from ulzoo.training.parametrisation import trained_networks
from ulzoo.training.trainer import Trainer, TrainerOptions

AUTOENCODER = (
    *("encoder.channels=[8,8,8,8]", "prior.backbone={width: 32, heads: 2, depth: 1}"),
    *("decoder.backbone={channels: [8,8,8], width: 32, heads: 2, depth: 1}", "data.resolution=64"),
)
TWO_LEVELS = "base.backbone={channels: [64,64], blocks: [2,1]}"
BACKBONE = "{kind: vit, patch: 4, width: 32, depth: 1, heads: 2}"
CASES: dict[str, tuple[str, ...]] = {
    "emoji32_curve": (),
    "emoji_video64_tiny": (),
    "imagenet512_medium": (*AUTOENCODER, TWO_LEVELS),
    "text2image512_100g": (*AUTOENCODER, TWO_LEVELS, "data.text_tokens=4", "data.text_width=6"),
    "kinetics600_medium": (
        *("data.resolution=32", "data.frames=8", "encoder={channels: [8,8,8], blocks: [1,1,1]}", *AUTOENCODER[1:3]),
        TWO_LEVELS,
    ),
}


STILL = ("prior.backbone.dropout=0", "decoder.backbone.dropout=0")
VARIANTS: dict[str, tuple[str, ...]] = {
    "": (),
    "adaptive schedule": ("base.schedule={kind: adaptive}",),
    "learned variance": ("latent.variance=learned",),
    "random log-SNR": ("base=null", "train.base=null", "latent.logsnr_bias=0", "decoder.latent_logsnr=true"),
    "variable rate": ("decoder.weighting.loss_factor=[1.0,4.0]", "base.loss_factor=2.0"),
    "normal prior": ("prior={kind: normal, weight: 1.0}",),
    "final decoder": (f"final_decoder={{backbone: {BACKBONE}}}", "train.decoder={steps: 4, batch_size: 8, lr: 1e-3}"),
    "distilled": ("distilled={}", "train.distill={steps: 4, batch_size: 8, lr: 1e-3}"),
    "checkpointed activations": ("train.parallel.checkpoint_activations=true",),
}


def prepared(spec: Spec, stage: Stage) -> UnifiedLatents:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = compile_model(spec, pretrained=False)
    model.prepare(stage)
    return model


def conditions(model: UnifiedLatents, n: int = 2) -> Conditions:
    contract, text = model.contract, None
    if contract.text_tokens:
        text = Text(torch.zeros(n, contract.text_tokens, contract.text_width), torch.ones(n, 4, dtype=torch.bool))
    return Conditions(torch.zeros(n, dtype=torch.long) if contract.num_classes else None, text)


LARGE = {name: [pytest.mark.slow] if "512" in name else [] for name in CASES}


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in LARGE.items()])
def test_no_block_of_any_stage_breaks_its_graph(name: str) -> None:
    spec = load_spec(name, CASES[name])
    for stage in spec.stages:
        model = prepared(spec, stage)
        blocks: list[nn.Module] = []
        for network in trainable_networks(trained_networks(model, stage)):
            blocks += [module for module in network.modules() if isinstance(module, BLOCKS)]
        assert blocks
        for block in blocks:
            block.compile(fullgraph=True, backend="eager")
        loss = StageLoss(model, stage)(torch.rand(2, *model.contract.shape), conditions(model))["loss"]
        loss.backward()
        assert loss.isfinite()


def test_a_break_is_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    block = Broken()
    block.compile(fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        block(torch.ones(2))


@pytest.mark.parametrize("variant", [pytest.param(name, marks=[pytest.mark.slow] if name else []) for name in VARIANTS])
def test_the_loss_of_any_stage_is_one_graph_with_the_same_value(variant: str, tiny: Callable) -> None:
    changes = VARIANTS[variant]
    spec = tiny(*(change for change in STILL if "normal" not in variant or "prior" not in change), *changes)
    for stage in spec.stages:
        assert_same_loss(spec, stage)


@pytest.mark.slow
def test_the_loss_of_a_video_model_is_one_graph(tiny_video: Callable) -> None:
    spec = tiny_video(*STILL)
    for stage in spec.stages:
        assert_same_loss(spec, stage)


def assert_same_loss(spec: Spec, stage: Stage) -> None:
    """Of two batches, and their gradients."""
    model = prepared(spec, stage)
    networks = trained_networks(model, stage)
    if spec.train.parallel and spec.train.parallel.checkpoint_activations:
        checkpoint_activations(networks)
    for parameter in networks.parameters():  # outputs are initialised to zero
        nn.init.normal_(parameter, std=0.1)
    loss = StageLoss(model, stage)
    compiled, size = CompiledLoss(loss, backend="eager"), 3
    for step, gradient in enumerate((0.0, 0.5)):
        x = torch.rand(size, *model.contract.shape) * 2 - 1
        results = []
        for one in (loss, compiled):
            noise = ExampleNoise(range(step, step + size), 5, 1, 8)
            terms = one(x, conditions(model, size), noise, gradient)
            results.append((terms, torch.autograd.grad(terms["loss"], list(networks.parameters()), allow_unused=True)))
        (terms, gradients), (compiled_terms, compiled_gradients) = results
        assert terms.keys() == compiled_terms.keys()
        torch.testing.assert_close(compiled_terms, terms)
        assert sum(gradient is not None for gradient in gradients) > 10
        for a, b in zip(gradients, compiled_gradients, strict=True):
            torch.testing.assert_close(torch.zeros(()) if b is None else b, torch.zeros_like(b) if a is None else a)


def test_recording_changes_no_schedule(tiny: Callable) -> None:
    model = prepared(tiny("base.schedule={kind: adaptive}"), "base")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pending = model.base.schedule.pending.clone()
    compiled = CompiledLoss(StageLoss(model, "base"), backend="eager")
    compiled._record(torch.rand(3, *model.contract.shape), conditions(model, 3))
    assert torch.equal(model.base.schedule.pending, pending) and model.base.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_noise_belongs_to_its_request() -> None:
    """Numbers that are drawn beforehand are those that the loss would have drawn."""
    recorder = NoiseRecorder(3, torch.device("cpu"))

    def drawn(noise: ExampleNoise) -> list[torch.Tensor]:
        numbers = [noise.times(), randn((3, 2, 2), noise), rand(3, noise), noise.spread(0.3), randn((3, 4), noise)]
        return [number.clone() for number in numbers]

    drawn(recorder)
    numbers = [draw(ExampleNoise([4, 5, 6], 7, 2, 8)) for draw in recorder.requests]
    assert len(numbers) == 5
    one = ExampleNoise([4, 5, 6], 7, 2, 8)
    beforehand = [draw(one) for draw in recorder.requests]
    for a, b in zip(drawn(DrawnNoise(3, beforehand)), drawn(ExampleNoise([4, 5, 6], 7, 2, 8)), strict=True):
        assert torch.equal(a, b)


def test_resumed_in_the_middle_it_ends_in_the_same_bits(tiny: Callable, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(CompiledLoss.__init__, "__kwdefaults__", {"backend": "eager"})
    spec = tiny("train.latents={steps: 6, checkpoint_every: 3, prior_warmup_steps: 4, compile: step}")

    def trainer(folder: Path) -> Trainer:
        torch._dynamo.reset()
        torch.manual_seed(0)
        source, options = open_source(spec, "train"), TrainerOptions({})
        return Trainer(compile_model(spec), "latents", spec.train.latents, source, folder, options)

    one, other = trainer(tmp_path / "one"), trainer(tmp_path / "other")
    one.run()
    other.resume(Checkpoint.open(tmp_path / "one/checkpoints/latents-00000003"))
    other.run()
    for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_a_compiled_loss_stays_close(tiny: Callable) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    model = prepared(tiny(*STILL), "latents")
    loss, x = StageLoss(model, "latents"), torch.rand(4, *model.contract.shape)
    values = []
    for one in (loss, CompiledLoss(loss)):
        values.append(one(x, conditions(model, 4), ExampleNoise(range(4), 0, 0, 4))["loss"].item())
    assert values[1] == pytest.approx(values[0], rel=1e-4)
