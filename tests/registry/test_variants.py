"""Every variant of the paper's experiments, from a spec to a trained, exported and loaded model; conflicting keys."""

import json
from pathlib import Path

import pytest
import torch

import ulzoo
from ulzoo.data import in_order
from ulzoo.diffusion import IndependentNoise
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import STAGES
from ulzoo.model.losses import decoder_loss, latents_loss
from ulzoo.model.rate import Posterior
from ulzoo.registry import SpecError, load_spec
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.registry.cost.memory import step_memory
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.runs.export import restore
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training.checkpointing import CheckpointManager

SMALL = "{kind: vit, patch: 4, width: 32, depth: 1, heads: 2}"
MSE = f"decoder={{kind: mse, backbone: {SMALL}, weight: 50}}"
SINGLE = ("base=null", "train.base=null")
RANDOM = (*SINGLE, "latent.logsnr_bias=0", "decoder.latent_logsnr=true")
FINAL = (
    f"final_decoder={{backbone: {SMALL}}}",
    "train.decoder={steps: 4, batch_size: 8, lr: 2e-3, checkpoint_every: 2, ema: 0.9}",
)
PIXELS = (
    "encoder={kind: identity}",
    "latent={channels: 3, downsample: [1, 1], logsnr: 10}",
    "prior=null",
    "decoder=null",
    "train.latents=null",
    f"base={{backbone: {SMALL}}}",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "normal prior": ("prior={kind: normal, weight: 0.5}",),
    "no prior gradient": ("prior.stop_gradient=true", "prior.normal_kl=0.01"),
    "logsnr 10": ("latent.logsnr=10",),
    "learned variance": ("latent.variance=learned",),
    "regression": (MSE,),
    "regression, then diffusion": (MSE, *FINAL),
    "regression given the log-SNR": (f"decoder={{kind: mse, backbone: {SMALL}, latent_logsnr: true}}",),
    "single stage": (*SINGLE, "prior.class_conditional=true", "sample.base.guidance=2"),
    "random log-SNR": RANDOM,
    "random log-SNR, learned variance": (*RANDOM, "latent.variance=learned"),
    "decoder given the log-SNR": ("decoder.latent_logsnr=true",),
    "labels everywhere": ("prior.class_conditional=true", "decoder.class_conditional=true"),
    "adaptive schedule": ("base.schedule={kind: adaptive}",),
    "distilled decoder": ("distilled={steps: [1, 2]}", "train.distill={steps: 2, batch_size: 8, lr: 1e-3}"),
    "distilled by the teacher's steps": (
        "distilled={steps: [1, 2], target: teacher}",
        "train.distill={steps: 2, batch_size: 8, lr: 1e-3, teacher_steps: 4}",
    ),
    "pixels": PIXELS,
}


@pytest.fixture(scope="module")
def variant(tiny):
    """The spec of a variant, with overrides and short stages."""

    def make(name: str, *overrides: str):
        keys = VARIANTS[name]
        short = ["train.base.steps=4"] if "train.base=null" not in keys else []
        short += ["train.latents.steps=4"] if "train.latents=null" not in keys else []
        return tiny(*keys, *short, *overrides)

    return make


def same_weights(a: Path, b: Path) -> bool:
    first, second = (ulzoo.load(folder).state_dict() for folder in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_exports_loads_and_samples(name, variant, tmp_path):
    spec = variant(name)
    result = train(spec, tmp_path)
    figures = result.results["figures"]
    assert all(torch.tensor(value).isfinite().all() for value in figures.values())
    assert ("bits_per_pixel" in figures) == (spec.prior is not None)
    assert ("base_bits_per_pixel" in figures) == (spec.base is not None)
    loaded = ulzoo.load(tmp_path)
    assert loaded.stages == spec.stages
    restored, _ = restore(CheckpointManager(tmp_path / "checkpoints").latest())
    images = [m.sample(2, generator=torch.Generator().manual_seed(0)) for m in (loaded, restored)]
    assert images[0].shape == (2, 3, 16, 16) and torch.equal(*images)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_is_measured_on_meta(name, variant):
    """Parameters of the real model, and the cost of every stage."""
    spec = variant(name)
    summary, model = summarize(spec), compile_model(spec)
    assert sum(summary.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert summary.stages == spec.stages == model.stages
    for stage in spec.stages:
        trained = 3 * sum(summary.flops.get(network, 0) for network in STAGES[stage])
        trained += summary.teacher_steps * summary.flops["decoder"] if stage == "distill" else 0
        assert summary.training_flops(stage) == trained + (summary.flops["encoder"] if stage != "latents" else 0)
        assert step_memory(spec, stage, "cpu", bf16=False).peak(8) > 4 * sum(summary.parameters.values())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "pixels"])
def test_its_loss_reaches_all_trained_parameters(name, variant):
    """Once the output layers are not zero, every parameter of the stage gets a gradient."""
    spec = variant(name)
    model = compile_model(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    model.prepare("latents")
    batch = next(in_order(open_source(spec, "train"), 8))
    latents_loss(model, batch["x"], conditions=Conditions(batch["label"])).total.backward()
    for network in STAGES["latents"]:
        for path, parameter in getattr(model, network).named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{network}.{path}"
    assert max(p.grad.abs().max() for p in model.encoder.parameters()) > 0
    assert all(
        p.grad is None for name in ("base", "final_decoder") if (m := getattr(model, name)) for p in m.parameters()
    )


# ------------------------------------------------------------------------------------------- single-stage training (B)


def test_the_decoder_is_conditioned_on_the_logsnr_of_each_latent(variant):
    """z_0 = α z_clean + σ ε at the sampled log-SNR, which is also where the prior starts to code."""
    model = compile_model(variant("random log-SNR"))
    seen: dict[str, torch.Tensor] = {}
    model.decoder.network.register_forward_pre_hook(lambda _, inputs: seen.update(inputs[2]._asdict()))

    def rate(z, *, logsnr_max=None, **_):
        seen.update(prior=logsnr_max, z=z)
        return z.square().flatten(1).sum(1)

    model.prior.rate = rate
    x = torch.zeros(4096, 3, 16, 16)
    latents_loss(model, x, generator=torch.Generator().manual_seed(0))
    logsnr = seen["latent_logsnr"]
    assert torch.equal(logsnr, seen["prior"]) and logsnr.std() > 0.5 and logsnr.max() <= 5
    residual = seen["latent"] - torch.sigmoid(logsnr).sqrt().reshape(-1, 1, 1, 1) * seen["z"]
    for low, high in ((-6.0, -2.0), (-1.0, 1.0), (2.0, 5.0)):
        inside = (logsnr > low) & (logsnr < high)
        expected = torch.sigmoid(-logsnr[inside]).mean().item()
        assert residual[inside].square().mean().item() == pytest.approx(expected, rel=0.05)


def test_samples_have_the_latents_logsnr(variant):
    model = compile_model(variant("random log-SNR"))
    seen = []
    model.decoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2].latent_logsnr))
    model.sample(3)
    assert seen and all(torch.equal(levels, torch.full((3,), 5.0)) for levels in seen)


def test_in_a_single_stage_the_prior_samples(variant):
    model = compile_model(variant("single stage"))
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    labels = Conditions(labels=[0, 1])
    by_default = model.sample_latents(2, conditions=labels, generator=seeds[0])
    assert torch.equal(by_default, model.sample_latents(2, conditions=labels, generator=seeds[1], network="prior"))
    with pytest.raises(ValueError, match="no base"):
        model.sample_latents(2, network="base")


# ------------------------------------------------------------------------------------------------- learned variance (D)


def test_the_latent_of_a_learned_variance_is_sampled(variant):
    model = compile_model(variant("learned variance"))
    x = torch.rand(2, 3, 16, 16)
    a, b = (model.encode(x, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert a.shape == (2, *model.contract.latent_shape) and not torch.equal(a, b)
    posterior = model.posterior(x)
    assert isinstance(posterior, Posterior) and posterior.log_variance is not None
    assert torch.equal(
        compile_model(variant("normal prior")).encode(x), compile_model(variant("normal prior")).encode(x)
    )


def test_the_entropy_is_subtracted_from_the_rate(variant):
    model = compile_model(variant("learned variance"))
    x = torch.rand(2, 3, 16, 16)
    rate = model.rate(x, generator=torch.Generator().manual_seed(0))
    posterior = model.posterior(x)
    noise = IndependentNoise.from_generator(torch.Generator().manual_seed(0), 2, model.device)
    z_clean = posterior.sample(noise)
    model.posterior = lambda x, **_: Posterior(z_clean)
    of_samples = model.rate(x, generator=noise)
    torch.testing.assert_close(rate, of_samples + posterior.entropy(5.0) / torch.log(torch.tensor(2.0)))


# --------------------------------------------------------------------------------------------- stages after the first


def test_the_final_decoder_decodes_and_trains_nothing_else(variant):
    model = compile_model(variant("regression, then diffusion"))
    z_0 = torch.randn(2, *model.contract.latent_shape)
    a, b = (model.decode(z_0, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert not torch.equal(a, b)  # unlike a regression
    with torch.no_grad():
        for parameter in model.final_decoder.parameters():
            parameter.add_(0.05)
    model.prepare("decoder")
    decoder_loss(model, torch.rand(4, 3, 16, 16)).backward()
    assert all(p.grad is not None for p in model.final_decoder.parameters())
    for network in ("encoder", "prior", "decoder", "base"):
        assert all(p.grad is None for p in getattr(model, network).parameters())


def test_three_stages_one_by_one_equal_a_single_run(variant, tmp_path):
    spec = variant("regression, then diffusion")
    single_run = train(spec, tmp_path / "whole")
    for stage in ("latents", "decoder", "base"):
        parts = train(spec, tmp_path / "parts", RunOptions(stage=stage))
    assert single_run.results == parts.results
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_only_stages_that_have_not_begun_may_change(variant, tmp_path):
    train(variant("regression, then diffusion"), tmp_path, RunOptions(stage="latents"))
    with pytest.raises(ValueError, match=r"no stage decoder to build on; run `ulzoo train … --stage decoder`"):
        train(variant("regression, then diffusion"), tmp_path, RunOptions(stage="base"))
    wider = variant("regression, then diffusion", "final_decoder.backbone.width=64", "base.backbone.width=64")
    train(wider, tmp_path, RunOptions(stage="decoder"))
    with pytest.raises(ValueError, match="its stage decoder depends on latents"):
        train(wider, tmp_path, RunOptions(stage="latents", resume=True))
    with pytest.raises(ValueError, match=r"another spec, final_decoder.backbone.width: 64 -> 32"):
        train(variant("regression, then diffusion", "base.backbone.width=64"), tmp_path, RunOptions(stage="base"))
    with pytest.raises(ValueError, match="--fresh would remove the stage decoder"):
        train(wider, tmp_path, RunOptions(stage="base", fresh=True))
    assert train(wider, tmp_path, RunOptions(stage="base")).results["figures"]["base_bits_per_pixel"] > 0


def test_an_export_has_no_untrained_network(variant, tmp_path):
    spec = variant("regression, then diffusion")
    train(spec, tmp_path, RunOptions(stage="latents"))
    model = ulzoo.load(tmp_path)
    assert model.final_decoder is None and model.base is None and model.stages == ("latents",)
    z_0 = torch.randn(1, *model.contract.latent_shape)
    assert torch.equal(model.decode(z_0), model.decode(z_0))  # the regression


def test_a_stage_that_the_spec_lacks_is_refused(variant, tmp_path):
    with pytest.raises(ValueError, match="has no stage 'latents'; its stages are base"):
        train(variant("pixels"), tmp_path / "run", RunOptions(stage="latents"))
    assert not (tmp_path / "run").exists()


def test_a_kill_in_the_stage_of_the_decoder_changes_nothing(variant, tmp_path):
    """An error after the first checkpoint, which looks like a kill to the resumed run."""
    spec = variant("regression, then diffusion")
    train(spec, tmp_path / "whole")

    class Stop(ulzoo.registry.runs.train.TrainingCallback):
        def on_stage(self, stage, config, start):
            self.name = stage

        def on_step(self, step, row):
            if (self.name, step) == ("decoder", 3):
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(spec, tmp_path / "run", callback=Stop())
    train(spec, tmp_path / "run", RunOptions(resume=True))
    assert same_weights(tmp_path / "run", tmp_path / "whole")


# ------------------------------------------------------------------------------------------------------- other data (C)


def test_stage_1_may_be_trained_on_other_data(images, variant, tmp_path):
    """Other images in another order in stage 1, the spec's own images in stage 2."""
    other = f"train.latents.data={{kind: image_folder, root: {images}/train, resolution: 16, hflip: false}}"
    spec = variant("logsnr 10", other)
    assert open_source(spec, "train", "latents").hflip is False and open_source(spec, "train", "base").hflip is True
    assert open_source(spec, "val").label_names == ("even", "odd")
    result = train(spec, tmp_path)
    assert result.results["protocol"]["data"]["num_classes"] == 2
    with pytest.raises(SpecError, match=r"has examples of shape \(3, 8, 8\), data has \(3, 16, 16\)"):
        compile_model(variant("logsnr 10", other.replace("resolution: 16", "resolution: 8")))
    with pytest.raises(SpecError, match="labels and captions may differ in meaning there: prior"):
        compile_model(variant("labels everywhere", other))
    missing = variant("logsnr 10", other.replace(str(images), "nowhere"))
    with pytest.raises(SpecError, match=r"nowhere.*no such folder|no such folder.*nowhere"):
        train(missing, tmp_path / "missing")


# ------------------------------------------------------------------------------------------------------------ baselines


def test_pixel_diffusion_is_a_base_on_images(variant):
    model = compile_model(variant("pixels"))
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    assert torch.equal(model.encode(x), x)
    z_0 = model.noise_latents(x, generator=torch.Generator().manual_seed(0))
    assert (model.decode(z_0) - x).abs().mean() < 0.01  # noise at a log-SNR of 10
    assert model.rate(x).shape == (4,)
    with pytest.raises(ValueError, match="this model has no prior"):
        model.rate(x, network="prior")


def test_an_encoder_that_decodes_takes_z_clean(variant):
    """As usual on latents without noise: sampling ends with the prediction, and nothing is added to encodings."""
    model = compile_model(variant("pixels", "latent.decoded=z_clean"))
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    assert torch.equal(model.reconstruct(x), x)
    evaluations = []
    z = model.sample_latents(3, callback=lambda x_t, logsnr: evaluations.append(x_t))
    assert len(evaluations) == model.contract.sampling["base"].steps
    assert not torch.equal(z, evaluations[-1]) and torch.equal(model.decode(z), z.clamp(-1, 1))
    with pytest.raises(SpecError, match="a decoder of the spec takes z_0"):
        compile_model(variant("logsnr 10", "latent.decoded=z_clean"))


@pytest.fixture
def autoencoder(tmp_path):
    """Overrides for a base on a tiny random AutoencoderKL that diffusers saved."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    sizes = {"block_out_channels": (8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
    diffusers.AutoencoderKL(**levels, **sizes, latent_channels=4).save_pretrained(tmp_path / "vae")
    keys = "block_out_channels: [8, 16, 16], layers_per_block: 1, norm_groups: 4"
    return (
        f"encoder={{kind: diffusers_autoencoder, path: {tmp_path}/vae, {keys}}}",
        "latent={channels: 4, downsample: [4, 4], logsnr: 8}",
        "prior=null",
        "decoder=null",
        "train.latents=null",
    )


def test_a_base_on_a_foreign_autoencoder(tiny, autoencoder, tmp_path):
    """Its weights come from its folder, are not trained, and are part of the export, which needs no folder."""
    spec = tiny(*autoencoder, "train.base.steps=4")
    before = compile_model(spec).encoder.state_dict()
    result = train(spec, tmp_path / "run")
    assert set(result.results["figures"]) >= {"psnr_db", "base_bits_per_pixel"}
    (tmp_path / "vae").rename(tmp_path / "moved")
    loaded = ulzoo.load(tmp_path / "run")
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.encoder.state_dict().items())
    assert loaded.sample(2).shape == (2, 3, 16, 16)
    with pytest.raises(SpecError, match="encoder"):
        compile_model(spec)
    assert summarize(spec).flops["encoder"] > 0  # "meta" needs no files


def test_our_decoder_on_the_latents_of_a_foreign_autoencoder(tiny, autoencoder, tmp_path):
    spec = tiny(*autoencoder, *FINAL, "train.base.steps=4")
    assert spec.stages == ("decoder", "base")
    train(spec, tmp_path / "run")
    assert (tmp_path / "run/samples/reconstructions.png").exists()
    model = ulzoo.load(tmp_path / "run")
    z_0 = torch.randn(1, *model.contract.latent_shape)
    a, b = (model.decode(z_0, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert not torch.equal(a, b)


# ----------------------------------------------------------------------------------------------------------------- text


@pytest.fixture(scope="module")
def captioned():
    """A tiny model of the embedded emoji that is conditioned on their names."""
    tiny_keys = Path(__file__).parents[1] / "tiny.yaml"
    return load_spec(
        tiny_keys,
        [
            "data={kind: emoji3d, resolution: 32, captions: true}",
            "base.class_conditional=false",
            "base.text_conditional=true",
            "decoder.text_conditional=true",
            "sample.base.guidance=2",
            "train.latents.steps=2",
            "train.base.steps=2",
        ],
    )


def test_captions_condition_the_model(captioned, tmp_path):
    result = train(captioned, tmp_path)
    assert (result.samples / "samples.png").exists()
    model = ulzoo.load(tmp_path)
    batch = next(in_order(open_source(captioned, "val"), 4))
    model.base.network.out.proj.weight.data.normal_()
    for block in model.base.network.transformer.blocks:
        block.cross_attention.proj.weight.data.normal_()

    def sample(**conditions):
        return model.sample(4, generator=torch.Generator().manual_seed(0), **conditions)

    one, other, none = (
        sample(text=batch["text"]),
        sample(text=Text(*(tensor.flip(0) for tensor in batch["text"]))),
        sample(),
    )
    assert not torch.allclose(one, other) and not torch.allclose(one, none)
    assert not torch.allclose(one, sample(text=batch["text"], guidance=1.0))
    bits = [
        model.rate(batch["x"], text=text, network="base", generator=torch.Generator().manual_seed(0))
        for text in (batch["text"], None)
    ]
    assert not torch.allclose(*bits)
    with pytest.raises(ValueError, match=r"text must have tokens of shape \(2, 12, 64\)"):
        model.sample(2, text=batch["text"])


def test_a_model_without_captions_refuses_them(variant):
    model = compile_model(variant("logsnr 10"))
    with pytest.raises(ValueError, match="this model takes no text"):
        model.sample(1, text=Text(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)))


# ------------------------------------------------------------------------------------------------------------ conflicts

CONFLICTS: dict[str, tuple[tuple[str, ...], str]] = {
    "single stage, normal prior": ((*SINGLE, "prior={kind: normal}"), "single-stage training (base null) samples from"),
    "guidance, no dropout": (
        ("sample.base.guidance=2", "base.label_dropout=0"),
        "guidance needs a diffusion model that is class_conditional or text_conditional, with dropout above 0",
    ),
    "guidance, unconditional": (
        ("sample.decoder.guidance=2",),
        "guidance needs a diffusion model",
    ),
    "guidance of a regression": (
        (MSE.replace("weight", "class_conditional: true, weight"), "sample.decoder.guidance=2"),
        "guidance needs a diffusion model",
    ),
    "text, no width": (("base.text_conditional=true",), "the data has no captions: no width"),
    "labels, no classes": (("data.num_classes=null",), "base.class_conditional: the data has no class labels"),
    "a decoder without a prior": (("prior=null", "train.latents=null"), "without a prior no stage trains it"),
    "a prior without a decoder": (("decoder=null",), "stage 1 trains prior and decoder together"),
    "neither prior nor base": ((*PIXELS[:-1], *SINGLE), "prior and base are both null, so no network samples"),
    "an encoder that cannot decode": (
        ("prior=null", "decoder=null", "train.latents=null"),
        "does not decode by itself",
    ),
    "one graph with FSDP": (
        ("train.base.compile=step", "train.parallel={kind: fsdp}"),
        "FSDP gathers parameters between blocks: set this to true, not step",
    ),
    "an unbounded latent": (("prior.stop_gradient=true",), "the latent would be unbounded"),
    "random log-SNR, two stages": (("latent.logsnr_bias=0",), "requires single-stage training"),
    "random log-SNR, unconditional decoder": (
        (*SINGLE, "latent.logsnr_bias=0"),
        "latent_logsnr must be true if latent.logsnr_bias is set",
    ),
    "a stage without a network": (
        ("train.decoder={steps: 1, batch_size: 1, lr: 1}",),
        "the spec has no final_decoder to train",
    ),
    "a network without a stage": (("train.base=null",), "missing key 'base', the training of base"),
    "an unknown prior": (("prior.kind=vae",), "unknown kind; expected one of: diffusion, normal"),
    "an unknown decoder": (("decoder.kind=gan",), "unknown kind; expected one of: diffusion, mse"),
    "a weighted prior": (("prior.weighting.kind=sigmoid",), "only elbo is allowed here"),
    "a variance of a frozen encoder": ((*PIXELS, "latent.variance=learned"), "without a prior the encoder is not"),
    "no weight": (("prior={kind: normal, weight: 0}",), "prior.weight: must be above 0"),
    "a regression with a schedule": ((f"decoder={{kind: mse, backbone: {SMALL}, schedule: {{}}}}",), "unknown key"),
    "pixels of two channels": ((*PIXELS, "latent.channels=2"), "latent.channels"),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_a_conflict_is_refused_with_its_reason(name, tiny):
    overrides, words = CONFLICTS[name]
    with pytest.raises(SpecError) as error:
        compile_model(tiny(*overrides), "meta")
    assert words in str(error.value) and "\n" not in str(error.value), str(error.value)


def test_a_conflict_is_located_in_the_file(tmp_path, images):
    text = (Path(__file__).parents[1] / "tiny.yaml").read_text().replace("base: {steps: 3}", "base: {guidance: 3}")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("label_dropout: 0.3", "label_dropout: 0.0"))
    line = next(i for i, words in enumerate(path.read_text().splitlines(), 1) if "guidance: 3" in words)
    with pytest.raises(SpecError, match=rf"mine.yaml:{line}: sample.base.guidance: guidance needs"):
        load_spec(path)


def test_the_resolved_spec_of_every_variant_loads_back(variant):
    for name in VARIANTS:
        spec = variant(name)
        assert ulzoo.registry.spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
