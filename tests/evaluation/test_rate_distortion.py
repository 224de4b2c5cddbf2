"""Metrics of models with results in closed form, and the protocol."""

import json
import math

import pytest
import torch
from torch import nn

from ulzoo.data import DataContract
from ulzoo.data.fingerprint import fingerprint
from ulzoo.data.source import TensorSource, Unreadable
from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, SigmoidWeighting
from ulzoo.evaluation import EvaluationConfig, frame_prediction, measure, rate_distortion
from ulzoo.evaluation.config import NOISE
from ulzoo.evaluation.distortion import PSNR, SSIM
from ulzoo.evaluation.execution import Execution
from ulzoo.evaluation.rate_distortion import RATE
from ulzoo.model.contract import Contract, Sampling
from ulzoo.model.denoisers import ConditionDropout, DiffusionModel
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model, open_source

SIDE, LOGSNR, SPREAD = 4, 5.0, 0.5
ERROR = 8  # grey levels


class Half(nn.Module):
    """An encoder to (1, 2, 2): the mean of each quarter of the image."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2)


class Optimal(nn.Module):
    """The x̂ of data N(0, s²): s² α x_t / (s² α² + σ²)."""

    def __init__(self, spread: float):
        super().__init__()
        self.spread = spread

    def forward(self, x_t, logsnr, conditions):
        alpha2 = torch.sigmoid(logsnr).reshape(-1, 1, 1, 1)
        return self.spread**2 * alpha2.sqrt() * x_t / (self.spread**2 * alpha2 + 1 - alpha2)


class Constant(nn.Module):
    """A decoder that outputs one colour whatever its inputs."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x_t, logsnr, conditions):
        return self.value.expand_as(x_t)


def model(base: bool = True, grey: float = 0.0) -> UnifiedLatents:
    def latent(spread: float) -> DiffusionModel:
        schedule = CosineSchedule(logsnr_max=LOGSNR)
        return DiffusionModel(Optimal(spread), GaussianDiffusion(schedule, "x"), SigmoidWeighting())

    decoder = DiffusionModel(
        Constant(grey), GaussianDiffusion(CosineSchedule(logsnr_max=20.0), "x"), SigmoidWeighting()
    )
    sampling = {"base": Sampling(), "decoder": Sampling("ddim", 5)}
    contract = Contract((SIDE, SIDE), 3, (2, 2), 1, LOGSNR, sampling=sampling)
    return UnifiedLatents(Half(), latent(SPREAD), decoder, latent(3.0) if base else None, contract).eval()


def source(n: int = 400, value: int | None = None) -> TensorSource:
    """Images with quarters drawn from N(0, s²), or of one colour."""
    if value is None:
        z = (torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * SPREAD).clamp(-1, 1)
        images = ((z.repeat(1, 3, 1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3) + 1) * 127.5).round().byte()
    else:
        images = torch.full((n, 3, SIDE, SIDE), value, dtype=torch.uint8)
    return TensorSource(images, labels=[-1] * n, keys=[str(i) for i in range(n)], contract=DataContract(3, SIDE, 0))


def test_psnr_of_a_known_error():
    grey = 100 / 127.5 - 1
    results = rate_distortion(model(grey=grey), source(10, value=100 + ERROR), EvaluationConfig({}, rate_samples=1))
    assert results["figures"]["psnr_db"] == pytest.approx(20 * math.log10(255 / ERROR), abs=1e-3)


def test_rate_of_a_gaussian_latent_in_closed_form():
    """½ log2(1 + s² e^λ0) bits/dimension by the optimal prior, more by a base that assumes six times the s."""
    data = source(4000)
    config = EvaluationConfig({}, batch_size=500, rate_samples=16)
    figures = rate_distortion(model(), data, config)["figures"]
    z = data.images.float().mean(1) / 127.5 - 1  # clipping and rounding change the variance
    variance = z.square().mean().item()
    snr = math.exp(LOGSNR)
    alpha2 = 1 / (1 + 1 / snr)
    ends = SPREAD**2 * alpha2 + 1 - alpha2  # KL(q(z_0 | z) ‖ N(0, ends)), averaged over z
    expected = (math.log(ends * (1 + snr)) + (variance * alpha2 + 1 - alpha2) / ends - 1) / 2 / math.log(2)
    assert expected == pytest.approx(math.log2(1 + SPREAD**2 * snr) / 2, rel=0.05)
    assert figures["bits_per_dimension"] == pytest.approx(expected, rel=0.01)
    assert figures["bits_per_pixel"] == pytest.approx(figures["bits_per_dimension"] * 4 / SIDE**2)
    assert figures["base_bits_per_pixel"] == pytest.approx(figures["base_bits_per_dimension"] * 4 / SIDE**2)
    assert figures["base_bits_per_dimension"] > figures["bits_per_dimension"] + 0.3


def test_without_a_base_there_is_no_rate_of_it():
    figures = rate_distortion(model(base=False), source(4), EvaluationConfig({}))["figures"]
    rate = {"bits_per_pixel", "bits_per_dimension", "bits_per_pixel_se", "bits_per_pixel_mc_se"}
    assert figures.keys() == {"psnr_db"} | rate


def test_the_protocol_is_complete_and_json(tiny):
    spec = tiny()
    config = EvaluationConfig({"kind": "x"}, limit=5, batch_size=2)
    results = rate_distortion(compile_model(spec), open_source(spec, "val"), config)
    protocol = json.loads(json.dumps(results))["protocol"]
    assert protocol.pop("fingerprint") == fingerprint(open_source(spec, "val"), 5).identity
    assert protocol == {
        **{"data": {"kind": "x"}, "split": "val", "images": 5, "rate_samples": 8, "seed": 0, "noise": NOISE},
        **{"decoder_sampler": "ddpm", "decoder_steps": 2, "dtype": "float32"},
        **{"psnr": PSNR, "ssim": SSIM, "rate": RATE},
    }
    assert all(isinstance(value, float) and math.isfinite(value) for value in results["figures"].values())


def test_the_protocol_determines_the_metrics(tiny):
    spec = tiny()
    trained, val = compile_model(spec), open_source(spec, "val")
    for parameter in trained.parameters():
        nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))

    def figures(**options):
        torch.randn(3)  # the global generator does not matter
        return rate_distortion(trained, val, EvaluationConfig({}, **options))["figures"]

    assert figures() == figures()
    assert figures(seed=1) != figures()
    assert figures(decoder_steps=1)["psnr_db"] != figures()["psnr_db"]
    assert figures(limit=3) != figures()


def test_each_metric_has_noise_of_its_own(tiny):
    """PSNR does not depend on the draws of the rate, on a base, or on the batch; a rate on nothing but itself."""
    trained, val = compile_model(tiny()).eval(), open_source(tiny(), "val")
    for parameter in trained.parameters():
        nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))

    def figures(**options):
        return rate_distortion(trained, val, EvaluationConfig({}, **{"limit": 6, "batch_size": 6} | options))["figures"]

    expected = figures()
    few_draws, small_batches = figures(rate_samples=1), figures(batch_size=4)
    trained.base = None
    without_base = figures()
    distortion = {name for name in expected if "bits" not in name}
    assert {name: few_draws[name] for name in distortion} == {name: expected[name] for name in distortion}
    assert without_base == {name: expected[name] for name in without_base}
    assert small_batches == pytest.approx(expected, rel=1e-5)


def test_progress():
    done = []
    execution = Execution(on_progress=done.append)
    rate_distortion(model(), source(10), EvaluationConfig({}, batch_size=4, limit=9), execution=execution)
    assert done == [4, 8, 9]


# ---------------------------------------------------------------------------------------------------------------- clips


class Halved(nn.Module):
    """An encoder of clips to (1, T, 2, 2)."""

    def forward(self, x):
        return nn.functional.avg_pool3d(x.mean(1, keepdim=True), (1, 2, 2))


class OptimalClips(Optimal):
    def forward(self, x_t, logsnr, conditions):
        return super().forward(x_t.squeeze(1), logsnr, conditions).unsqueeze(1)


def clips_model(context_frames: int = 0, colour: float = 0.0, frame_dropout: float = 0.5) -> UnifiedLatents:
    """The model above for clips of 3 frames; the decoder outputs `colour`, added to the last context frame if any."""
    latent = GaussianDiffusion(CosineSchedule(logsnr_max=LOGSNR), "x")
    pixels = GaussianDiffusion(CosineSchedule(logsnr_max=20.0), "x")
    sampling = {"base": Sampling(steps=2), "decoder": Sampling("ddim", 5)}
    size, latent_size = (3, SIDE, SIDE), (3, 2, 2)
    contract = Contract(
        size, 3, latent_size, 1, LOGSNR, sampling=sampling, context_frames=context_frames, frame_rate=8.0
    )
    prior, base = (
        DiffusionModel(OptimalClips(SPREAD), latent, SigmoidWeighting(), dropout=ConditionDropout(frames=0.5))
        for _ in range(2)
    )
    decoder = DiffusionModel(
        Constant(colour), pixels, SigmoidWeighting(), dropout=ConditionDropout(frames=frame_dropout)
    )
    return UnifiedLatents(Halved(), prior, decoder, base, contract).eval()


def clips(*values: int, n: int = 4) -> TensorSource:
    """n clips of frames with one grey each."""
    frames = torch.tensor(values, dtype=torch.uint8).reshape(1, 1, -1, 1, 1).expand(n, 3, -1, SIDE, SIDE)
    contract = DataContract(3, SIDE, 0, (), len(values), 8.0)
    return TensorSource(frames, labels=[-1] * n, keys=[str(i) for i in range(n)], contract=contract)


def decibels(error: float) -> float:
    return 20 * math.log10(255 / error)


def levels(number: int) -> float:
    return number / 127.5


def test_psnr_of_clips_is_the_mean_of_the_frames_and_not_that_of_the_mean_error():
    results = rate_distortion(
        clips_model(colour=levels(100) - 1), clips(101, 110, 150), EvaluationConfig({}, rate_samples=1)
    )
    figures, protocol = results["figures"], results["protocol"]
    expected = [decibels(1), decibels(10), decibels(50)]
    assert figures["psnr_db_by_frame"] == pytest.approx(expected, abs=1e-3)
    assert figures["psnr_db"] == pytest.approx(sum(expected) / 3, abs=1e-3)
    assert protocol["psnr"].startswith("mean over clips and frames") and json.loads(json.dumps(results)) == results
    assert [protocol[key] for key in ("images", "frames", "frame_rate", "given_frames")] == [4, 3, 8.0, 0]
    assert protocol["clip"] == "the middle of each video" and "4 pixels, centre crop" in protocol["resize"]


def test_rates_of_clips_are_over_all_frames_pixels():
    figures = rate_distortion(clips_model(), clips(90, 120, 140), EvaluationConfig({}))["figures"]
    assert figures["bits_per_pixel"] == pytest.approx(figures["bits_per_dimension"] * (3 * 4) / (3 * SIDE**2))


def test_context_frames_that_a_decoder_needs_are_not_counted():
    source, config = clips(101, 110, 150), EvaluationConfig({}, rate_samples=1)
    results = rate_distortion(clips_model(1, levels(-1), frame_dropout=0), source, config)
    assert results["figures"]["psnr_db_by_frame"] == pytest.approx([decibels(10), decibels(50)], abs=1e-3)
    assert "is given the first 1, which are not counted" in results["protocol"]["psnr"]
    free = rate_distortion(clips_model(1, levels(-1)), source, config)
    assert len(free["figures"]["psnr_db_by_frame"]) == 3 and "not counted" not in free["protocol"]["psnr"]
    assert "given the first 1 frames" in free["protocol"]["rate"]


def test_frame_prediction_and_its_baseline():
    results = frame_prediction(
        clips_model(1, levels(-20)), clips(120, 110, 150, n=9), EvaluationConfig({}, batch_size=4)
    )
    figures = results["figures"]
    for name, errors in {"prediction": (10, 50), "copy_last": (10, 30)}.items():
        expected = [decibels(error) for error in errors]
        assert figures[f"{name}_psnr_db_by_frame"] == pytest.approx(expected, abs=1e-3)
        assert figures[f"{name}_psnr_db"] == pytest.approx(sum(expected) / 2, abs=1e-3)
        assert figures[f"{name}_psnr_db_first_2"] == pytest.approx(sum(expected) / 2, abs=1e-3)
    assert results["protocol"]["clips"] == 9 and results["protocol"]["base_steps"] == 2
    with pytest.raises(ValueError, match="generates whole clips"):
        frame_prediction(clips_model(), clips(120, 110, 150), EvaluationConfig({}))


def test_progress_counts_each_part():
    progress, config = [], EvaluationConfig({}, limit=3, batch_size=2)
    trained, source = clips_model(1), clips(120, 110, 150, n=5)
    results = measure(trained, source, config, on_progress=lambda *done: progress.append(done))
    assert progress == [(2, 6), (3, 6), (5, 6), (6, 6)]
    assert results["figures"].keys() >= {"psnr_db", "prediction_psnr_db", "copy_last_psnr_db", "base_bits_per_pixel"}
    assert results["protocol"]["frame_prediction"]["clips"] == results["protocol"]["images"] == 3
    trained.base = None
    alone = measure(trained, source, config)
    assert "prediction_psnr_db" not in alone["figures"] and "base_bits_per_pixel" not in alone["figures"]


class Damaged(TensorSource):
    """The second and third clips cannot be read."""

    skips_unreadable = True

    def __getitem__(self, index):
        if index in (1, 2):
            raise Unreadable(f"clip {index}: it is cut short")
        return super().__getitem__(index)


def test_unreadable_examples_are_skipped_counted_and_named():
    intact = clips(101, 110, 150, n=5)
    damaged = Damaged(intact.images, labels=intact.labels, keys=intact.keys, contract=intact.contract)
    with pytest.warns(UserWarning, match="left out: clip 1: it is cut short and 1 more"):
        protocol = rate_distortion(clips_model(), damaged, EvaluationConfig({}, batch_size=2))["protocol"]
    assert (protocol["images"], protocol["left_out"]) == (3, 2)
    assert "left_out" not in rate_distortion(clips_model(), intact, EvaluationConfig({}))["protocol"]
