"""The trainer: gradients, the log, warnings, and how it stops when the loss is not finite."""

import copy
import gzip
import json
import math
import shutil
import sys
import warnings

import pytest
import torch

from ulzoo.data import Batch
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import STAGES
from ulzoo.model.losses import latents_loss
from ulzoo.nn.transformer import Block
from ulzoo.registry.compile import compile_model, compile_proxy, open_source
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.runtime.devices import has_bf16
from ulzoo.runtime.processes import SINGLE_PROCESS
from ulzoo.training import trainer as trainer_module
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.monitoring import MetricsLog, NonFiniteLoss, read_rows
from ulzoo.training.trainer import Trainer, TrainerOptions

STILL = ("prior.backbone.dropout=0", "decoder.backbone.dropout=0", "base.label_dropout=0")


@pytest.fixture
def trainer(tiny, tmp_path):
    """trainer(stage, *overrides): a trainer of a new model."""

    def make(stage="latents", *overrides, **options) -> Trainer:
        spec = tiny(*overrides)
        source = options.pop("source", None) or open_source(spec, "train")
        config = getattr(spec.train, stage)
        trainer_options = TrainerOptions({}, proxy=compile_proxy(spec, stage), **options)
        return Trainer(compile_model(spec), stage, config, source, tmp_path / "run", trainer_options)

    return make


def rows(trainer: Trainer) -> list[dict]:
    return read_rows(trainer.folder / "metrics.jsonl")


def batch(n: int = 8) -> Batch:
    x = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"x": x, "label": torch.arange(n) % 2, "text": None, "key": [], "images": n, "skipped": {}}


# ------------------------------------------------------------------------------------------------------------- the step


def test_a_batch_in_parts_has_the_gradient_of_the_batch(trainer, monkeypatch):
    def gradients(accumulate: int) -> list[torch.Tensor]:
        one = trainer("latents", *STILL, f"train.latents.accumulate={accumulate}", "train.latents.grad_clip=null")
        for parameter in one.parameters:  # outputs are initialised to zero
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
        monkeypatch.setattr(one.optimizer, "step", lambda: None)
        monkeypatch.setattr(one.optimizer, "zero_grad", lambda: None)
        one._step(batch())
        return [parameter.grad for parameter in one.model.encoder.parameters()]

    at_once, in_parts = gradients(1), gradients(4)
    assert any(gradient.abs().max() > 1e-4 for gradient in at_once)
    for a, b in zip(at_once, in_parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_parts_draw_the_noise_of_the_batch(trainer):
    def noise_levels(accumulate: int) -> torch.Tensor:
        one, seen = trainer("latents", f"train.latents.accumulate={accumulate}"), []
        one.model.decoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(torch.stack(inputs[:2][1:])))
        one._step(batch())
        assert len(seen) == accumulate
        return torch.cat(seen, dim=1)

    assert torch.equal(noise_levels(1), noise_levels(4)) and len(noise_levels(1).unique()) == 8


def test_gradients_are_clipped_to_the_limit_and_logged_before(trainer):
    one = trainer("latents", "train.latents.grad_clip=1e-3")
    norms = []
    one.optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.cat([p.grad.flatten() for p in one.parameters if p.grad is not None]).norm())
    )
    values = one._step(batch()).result(SINGLE_PROCESS)
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert values["grad_norm"] > 0.01


def test_no_clipping(trainer):
    one, norms = trainer("latents", "train.latents.grad_clip=null"), []
    one.optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.cat([p.grad.flatten() for p in one.parameters if p.grad is not None]).norm())
    )
    values = one._step(batch()).result(SINGLE_PROCESS)
    assert norms[0] == pytest.approx(values["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("stage", ["latents", "base"])
def test_only_the_stage_is_trained(stage, trainer):
    one = trainer(stage)
    before = copy.deepcopy(one.model.state_dict())
    for _ in range(3):
        one._step(batch())
        one.step += 1
    changed = {
        name.partition(".")[0] for name, new in one.model.state_dict().items() if not torch.equal(new, before[name])
    }
    assert changed == set(STAGES[stage])


def test_the_learning_rate_is_that_of_the_step(trainer):
    one, seen = trainer("latents", "train.latents.warmup_steps=4", "train.latents.lr=0.4"), []
    one.optimizer.register_step_pre_hook(lambda *_: seen.append({group["lr"] for group in one.optimizer.param_groups}))
    for _ in range(5):
        one._step(batch())
        one.step += 1
    assert [lr for lrs in seen for lr in lrs] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_under_mup_it_is_scaled_by_group_and_logged_without(trainer):
    mup = "train.base.parametrisation={kind: mup, proxy: {base: {width: 8}}}"
    one, seen = trainer("base", mup, "train.base.steps=1", "train.base.warmup_steps=0", "train.base.lr=0.4"), []
    one.optimizer.register_step_pre_hook(lambda *_: seen.extend(group["lr"] for group in one.optimizer.param_groups))
    one.run()
    assert sorted(set(seen)) == pytest.approx([0.1, 0.2, 0.4])  # kernels, temperatures, all others
    assert rows(one)[0]["lr"] == 0.4


def test_the_priors_gradient_is_warmed_up(trainer):
    one, seen = trainer("latents", "train.latents.prior_warmup_steps=2"), []
    one.loss.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[-1]))
    for _ in range(4):
        one._step(batch())
        one.step += 1
    assert seen == [0, 0.5, 1, 1]
    assert trainer("latents", "train.latents.prior_warmup_steps=0").config.prior_warmup_steps == 0


def test_without_its_gradient_the_prior_still_learns_but_the_encoder_gets_none(trainer):
    one = trainer("latents", "train.latents.prior_warmup_steps=1")
    x, labels = batch()["x"], batch()["label"]

    def encoder_gradient(step: int) -> torch.Tensor:
        one.step = step
        one.model.zero_grad()
        loss = latents_loss(
            one.model, x, conditions=Conditions(labels), generator=one._noise(0, 8), prior_gradient=float(step)
        )
        loss.regularisation.mean().backward()
        assert one.model.prior.network.out.proj.weight.grad.abs().max() > 0
        gradient = one.model.encoder.out.weight.grad
        return torch.zeros(1) if gradient is None else gradient

    assert encoder_gradient(0).abs().max() == 0
    assert encoder_gradient(1).abs().max() > 0


# -------------------------------------------------------------------------------------------------------------- the log


@pytest.mark.slow
def test_the_logged_rate_is_the_models(trainer):
    """The mean of the logged rate over many steps with lr → 0 against model.rate of many samples."""
    one = trainer(
        "latents", *STILL, "train.latents.lr=1e-12", "train.latents.log_every=1", "train.latents.batch_size=44"
    )
    one.config = one.config.model_copy(update={"steps": 60, "checkpoint_every": 1000})
    x = torch.stack([one.source[i][0] for i in range(44)]) / 127.5 - 1
    x = torch.cat([x, x.flip(-1)])  # the stream mirrors every second image
    one.run()
    logged = torch.tensor([row["rate_bits_per_pixel"] for row in rows(one)])
    expected = one.model.rate(x, samples=200, generator=torch.Generator().manual_seed(0)).mean() / 256
    assert len(logged) == 60
    assert abs(logged.mean() - expected) < 4 * logged.std() / math.sqrt(60) + 0.01 * expected


def test_rows_are_means_over_their_steps_and_complete(trainer):
    one = trainer("latents", "train.latents.log_every=4", "train.latents.steps=10")
    terms, step = [], one._step
    one._step = lambda *batch, **stop: terms.append(step(*batch, **stop)) or terms[-1]
    one.run()
    log = rows(one)
    assert [(row["stage"], row["step"], row["images"]) for row in log] == [("latents", n, 8 * n) for n in (4, 8, 10)]
    for row, part in zip(log, (terms[:4], terms[4:8], terms[8:]), strict=True):
        for name in ("loss", "rate_bits_per_pixel", "distortion", "grad_norm"):
            assert row[name] == pytest.approx(sum(metrics.result(SINGLE_PROCESS)[name] for metrics in part) / len(part))
        assert row["loss"] == pytest.approx(row["rate_bits_per_pixel"] * math.log(2) + row["distortion"], rel=1e-4)
        assert 0 <= row["data_wait"] <= 1
        assert row["images_per_second"] > 0


def test_speed_after_a_resume_counts_the_steps_since(trainer, tmp_path, monkeypatch):
    """Steps of the window from before the interruption do not count."""
    options = ("train.latents.steps=6", "train.latents.log_every=6", "train.latents.checkpoint_every=5")
    one = trainer("latents", *options)
    one.run()
    shutil.rmtree(tmp_path / "run/checkpoints/latents-00000006")
    two, clock = trainer("latents", *options), iter(range(1000))
    two.resume(CheckpointManager(tmp_path / "run/checkpoints").latest())
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: float(next(clock)))
    two.run()
    assert rows(two)[-1]["images_per_second"] == pytest.approx(8 / 3)  # clock: start, wait, batch, row
    assert rows(two)[-1]["data_wait"] == pytest.approx(1 / 3)


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path)
    written = [("latents", 5), ("latents", 10), ("base", 5), ("base", 10)]
    for stage, step in written:
        log.write({"stage": stage, "step": step})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage"')
    for stage, step, left in (("base", 10, 4), ("base", 9, 3), ("base", 0, 2), ("latents", 5, 1), ("latents", 0, 0)):
        MetricsLog(tmp_path, stage, step).close()
        assert [(row["stage"], row["step"]) for row in read_rows(tmp_path / "metrics.jsonl")] == written[:left]


# ----------------------------------------------------------------------------------------------------- precision, speed


def test_bf16_stays_close(trainer, tmp_path):
    """And differs, where the processor has it."""
    losses = {}
    for precision in ("fp32", "bf16"):
        one = trainer("latents", f"train.latents.precision={precision}", "train.latents.steps=6")
        one.run()
        losses[precision] = rows(one)[-1]["loss"]
        shutil.rmtree(tmp_path / "run")
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)
    assert (losses["bf16"] != losses["fp32"]) == has_bf16(torch.device("cpu"))


@pytest.mark.parametrize("stage", ["latents", "base"])
def test_compile_compiles_every_block_of_the_stage(stage, trainer, monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # there is one
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    one = trainer(stage, f"train.{stage}.compile=true", f"train.{stage}.steps=2")
    one.run()
    model = one.model
    parts = {"latents": [model.encoder, model.prior.network, model.decoder.network], "base": [model.base.network]}
    assert compiled == [module for part in parts[stage] for module in part.modules() if isinstance(module, Block)]
    assert len(compiled) == len(parts[stage])  # tiny networks have one block each


@pytest.mark.slow
def test_compiled_stays_close(trainer, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    losses = []
    for compiled in ("false", "true"):
        one = trainer("base", f"train.base.compile={compiled}", *STILL, "train.base.steps=4")
        one.run()
        losses.append(rows(one)[-1]["loss"])
        shutil.rmtree(tmp_path / "run")
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_a_profile_is_written_and_changes_nothing(trainer, tmp_path):
    losses = []
    for profile in (False, True):
        one = trainer("latents", "train.latents.steps=12", profile=profile)
        one.run()
        losses.append([row["loss"] for row in rows(one)])
        if not profile:
            assert not (tmp_path / "run/profile").exists()
            shutil.rmtree(tmp_path / "run")
    assert losses[0] == losses[1]
    trace = json.loads(gzip.decompress((tmp_path / "run/profile/latents.json.gz").read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"data", "forward", "backward", "optimizer", "average"} <= names
    assert "aten::mm" in (tmp_path / "run/profile/latents.txt").read_text()


# --------------------------------------------------------------------------------------------------- non-finite losses


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part, term", [("prior", "rate_bits_per_pixel"), ("decoder", "distortion"), ("base", "loss")])
def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(part, term, value, trainer, tmp_path):
    stage = "base" if part == "base" else "latents"
    one = trainer(stage, f"train.{stage}.checkpoint_every=2")
    calls = []

    def poison(module, inputs, output):
        calls.append(1)
        return output + (value if len(calls) == 4 else 0)

    getattr(one.model, part).network.register_forward_hook(poison)
    with pytest.raises(NonFiniteLoss) as error:
        one.run()
    message = str(error.value)
    assert message.startswith(f"stage {stage}, step 4: {term} is {value} on the images train/")
    assert len(message.splitlines()) == 1 and ".png" in message
    last = CheckpointManager(tmp_path / "run/checkpoints").latest()
    assert last.step == 2
    assert all(tensor.isfinite().all() for tensor in last.read("").values())
    assert all(row["step"] < 4 for row in rows(one))


def test_a_gradient_that_is_not_finite_stops_too(trainer):
    one = trainer("latents")
    one.model.encoder.out.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteLoss, match="step 1: grad_norm is nan"):
        one.run()


def test_a_broken_image_is_named(trainer):
    one = trainer("latents")
    bad = one.source[7][2]
    step, poisoned = one._step, []

    def poison(batch, **stop):
        if bad in (keys := batch["key"]):
            batch["x"][keys.index(bad)] = float("nan")
            poisoned.append(keys)
        return step(batch, **stop)

    one._step = poison
    with pytest.raises(NonFiniteLoss) as error:
        one.run()
    assert bad in str(error.value) and all(key in str(error.value) for key in poisoned[0])


# ------------------------------------------------------------------------------------------------------------- collapse


def collapse_warnings(caught: list) -> list[str]:
    return [str(warning.message) for warning in caught if "collapsing" in str(warning.message)]


def test_one_warning_of_a_collapsing_latent_names_the_keys(trainer):
    one = trainer("latents")  # 0.25 latent dimensions per pixel
    step = one.config.warmup_steps
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for rate in (0.0051, 0.0049, 0.0040):
            one.collapse.check(step, rate)
    (message,) = collapse_warnings(caught)
    for words in ("0.0049 bits/pixel", "decoder.weighting.loss_factor", "decoder.weighting.bias", "(now 3 and 5)"):
        assert words in message


def test_no_warning_before_the_warm_up_ends_or_in_the_second_stage(trainer):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="ulzoo")
        trainer("latents").collapse.check(3, 0.0)
        one = trainer("base")
        one.step, one.window = 20, {"steps": 1, "rate_bits_per_pixel": 0.0}
        one._row(0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("rates", "step"),
    [((0.0, 0.0, 0.0), None), ((0.0, 0.2, 0.001), 3), ((0.2, 0.2, 0.2), None)],
    ids=["not risen yet", "fallen", "healthy"],
)
def test_in_warm_up_only_a_rate_that_falls_is_a_collapse(rates, step, trainer):
    one = trainer("latents")
    assert len(rates) < one.config.warmup_steps
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number, rate in enumerate(rates, start=1):
            one.collapse.check(number, rate)
    assert [message.split(":")[0] for message in collapse_warnings(caught)] == ([f"step {step}"] if step else [])


def test_a_run_that_ends_in_warm_up_is_warned_of_a_collapse(trainer):
    one = trainer("latents", "train.latents.warmup_steps=1000")
    with pytest.warns(UserWarning, match="the latent is collapsing"):
        one.collapse.check(one.config.steps, 0.0)


@pytest.mark.slow
def test_a_run_whose_decoder_does_not_count_collapses(tiny, tmp_path):
    settings = ("decoder.weighting.loss_factor=1e-6", "train.latents.prior_warmup_steps=0", "train.latents.lr=3e-2")
    settings = (*settings, "latent.logsnr=1")  # the noisier, the sooner
    spec = tiny(*settings, "prior.backbone.dropout=0", "train.latents.steps=100", "train.latents.log_every=10")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(spec, tmp_path / "run", RunOptions(stage="latents"))
    assert len(collapse_warnings(caught)) == 1


def test_a_healthy_run_does_not(tiny, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="ulzoo")
        train(
            tiny("train.latents.steps=40", "train.latents.checkpoint_every=1000"), tmp_path, RunOptions(stage="latents")
        )
