"""Kinetics-600's protocol on synthetic clips: numbers, placements, resize, and distances that are known exactly."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ulzoo.data import DataContract
from ulzoo.data.source import Placement, Sample, Source, Unreadable
from ulzoo.evaluation import EvaluationConfig, FrechetConfig, generation_distance
from ulzoo.evaluation.clip_protocols import K600, ClipProtocol, RealClips
from ulzoo.media.pixels import from_uint8, to_uint8
from ulzoo.model.contract import Contract

FRAMES, CONTEXT, SHIFT = 16, 5, 16
SMALL = {"folds": 2, "samples": 18}


class Videos(Source):
    """Videos of one grey, which depends on the video, the time and the crop."""

    hflip, skips_unreadable = False, True

    def __init__(self, n=3, side=128, unreadable=()):
        self.n, self.side, self.unreadable = n, side, unreadable
        self.contract = DataContract(3, side, 0, (), FRAMES, 8.0)

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return self.place(index, Placement())

    def place(self, index, placement):
        if index in self.unreadable:
            raise Unreadable(f"video {index}: damaged")
        grey = 60 * index + round(40 * (placement.position or 0.5)) + round(8 * placement.crop)
        return Sample(torch.full((3, FRAMES, self.side, self.side), grey, dtype=torch.uint8), -1, str(index))


class Ends:
    """Two features: the means of the first frame and of the last."""

    name, dimension = "fvd", 2

    def __init__(self):
        self.inputs, self.protocol = [], {"network": "none"}

    def __call__(self, clips):
        assert clips.dtype == torch.uint8
        self.inputs.append(clips)
        return torch.stack([clips[:, :, t].float().mean((1, 2, 3)) for t in (0, -1)], 1)


class Brighter(SimpleNamespace):
    """Continues its context by frames that are brighter by a constant, or by that constant times the fold's noise."""

    def __init__(self, side=128, frames=FRAMES, context=CONTEXT, noisy=False):
        contract = Contract((frames, side, side), 3, (1, 1, 1), 1, 5.0, context_frames=context)
        super().__init__(contract=contract, base=object(), device=torch.device("cpu"), noisy=noisy, seeds=[])

    def select_decoder(self, network=None, steps=None):
        return None, self.contract.sampling_with("decoder", steps, None)

    def sample(self, n, *, labels=None, frames=None, guidance=None, steps=None, generator=None, network=None):
        assert len(frames) == n and frames.shape[2] == CONTEXT
        noise = torch.stack([torch.randn(1, 1, 1, 1, generator=g) for g in generator.streams.generators])
        self.seeds += noise.flatten().tolist()
        last = to_uint8(frames)[:, :, -1:].float() + SHIFT * (noise if self.noisy else 1)
        last = from_uint8(last.clamp(0, 255).byte().expand(-1, -1, FRAMES - CONTEXT, -1, -1))
        return torch.cat([frames, last], 2)


def measured(model, protocol, *, features=None, source=None, **options):
    frechet = FrechetConfig(features or Ends(), reference=source or Videos(), clip_protocol=protocol)
    return generation_distance(model, EvaluationConfig(**{"data": {}, "batch_size": 4} | options), frechet)


def test_the_published_numbers():
    for name, side in (("k600_64", 64), ("k600_128", 128)):
        protocol = K600[name]
        assert (protocol.side, protocol.frames, protocol.context_frames) == (side, 16, 5)
        assert (protocol.folds, protocol.samples, len(protocol.placements)) == (4, 50_000, 6)
        assert protocol.metric("fvd") == f"fvd_{name}"
    assert replace(K600["k600_64"], folds=2, samples=512).metric("fvd") == "fvd_k600_64_2x512"
    assert K600["k600_64"].placements == tuple(Placement(t, side) for t in (0.25, 0.75) for side in (0, 0.5, 1))
    assert ClipProtocol("x", 8, windows=1, crops=1).placements == (Placement(0.5, 0.5),)


def test_a_constant_shift_is_its_square():
    """A fold continues each of the 18 real clips once, so the covariances are equal and only the last mean differs."""
    features, model, progress = Ends(), Brighter(), []
    frechet = FrechetConfig(features, reference=Videos(), clip_protocol=replace(K600["k600_64"], **SMALL))
    results = generation_distance(
        model, EvaluationConfig({}, batch_size=4), frechet, on_progress=lambda *done: progress.append(done)
    )
    name = "fvd_k600_64_2x18"
    figures = results["figures"]
    assert figures[name] == pytest.approx(SHIFT**2, rel=1e-6) and figures[f"{name}_std"] == pytest.approx(0, abs=1e-6)
    assert figures[f"{name}_by_fold"] == pytest.approx([SHIFT**2] * 2, rel=1e-6)
    clips = torch.cat(features.inputs)
    assert clips.shape == (3 * 18, 3, FRAMES, 64, 64)
    greys = clips[:, 0, 0, 0, 0]
    expected = [60 * v + t + crop for v in range(3) for t in (10, 30) for crop in (0, 4, 8)]
    assert greys[:18].tolist() == expected
    for fold in (greys[18:36], greys[36:]):
        assert fold.tolist() != expected and sorted(fold.tolist()) == sorted(expected)
    assert not torch.equal(greys[18:36], greys[36:])
    assert len(set(model.seeds)) == 36  # each sample has noise of its own
    assert progress[-1] == (54, 54)
    protocol = results["protocol"]
    assert json.loads(json.dumps(results)) == results
    assert (protocol["clips"], protocol["reference_clips"]) == (36, 18)
    assert "2 windows" in protocol["clip"] and "3 crops" in protocol["clip"] and "64 pixels" in protocol["resize"]
    assert protocol["figures"] == list(figures)


def test_mean_and_deviation_are_those_of_the_folds():
    protocol = replace(K600["k600_64"], folds=3, samples=9)
    results = measured(Brighter(64, noisy=True), protocol, source=Videos(side=64), seed=1)
    figures = results["figures"]
    folds = torch.tensor(figures["fvd_k600_64_3x9_by_fold"], dtype=torch.float64)
    assert len(set(folds.tolist())) == 3
    assert figures["fvd_k600_64_3x9"] == pytest.approx(folds.mean().item())
    assert figures["fvd_k600_64_3x9_std"] == pytest.approx(folds.std().item())
    assert measured(Brighter(64, noisy=True), protocol, source=Videos(side=64), seed=1) == results
    other = measured(Brighter(64, noisy=True), protocol, source=Videos(side=64), seed=2)
    assert other["figures"] != figures


def test_more_samples_than_clips_and_videos_that_cannot_be_read():
    features = Ends()
    protocol = replace(K600["k600_64"], folds=1, samples=15)
    with pytest.warns(UserWarning, match="left out: video 1: damaged and 5 more"):
        results = measured(
            Brighter(64), protocol, features=features, source=Videos(2, 64, unreadable=(1,)), batch_size=4
        )
    greys = torch.cat(features.inputs)[:, 0, 0, 0, 0].tolist()
    assert sorted(greys[6:12]) == greys[:6] and set(greys[12:18]) <= set(greys[:6]) and len(greys) == 21
    assert "fvd_k600_64_1x15_std" not in results["figures"]
    assert results["protocol"]["left_out"] == 6 and results["protocol"]["reference_clips"] == 6


def test_the_resize_averages_areas_and_rounds():
    clips = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    means = clips.double().unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    resized = ClipProtocol("x", 4).resized(clips)
    assert resized.shape == (2, 3, 4, 4, 4) and (resized.double() - means).abs().max() <= 0.5
    assert ClipProtocol("x", 8).resized(clips) is clips


def test_models_that_do_not_fit():
    for words, model in (
        ("clips of 16 frames that continue 5: this model generates 16, given 4", Brighter(context=4)),
        ("this model generates 12, given 5", Brighter(frames=12)),
        ("of 128 pixels a side, this model's have 64", Brighter(64)),
    ):
        with pytest.raises(ValueError, match=words):
            measured(model, replace(K600["k600_128"], **SMALL))
    with pytest.raises(ValueError, match="folds must be at least 1, not 0"):
        replace(K600["k600_64"], folds=0)
    with pytest.raises(ValueError, match="at least 2 clips, not 1"):
        replace(K600["k600_64"], samples=1)


def test_clips_in_another_order():
    clips = RealClips(Videos(2, 4), (Placement(0.25, 0.0), Placement(0.25, 1.0)), [3, 0])
    assert [int(clips[i].pixels[0, 0, 0, 0]) for i in range(len(clips))] == [78, 10]
    assert len(RealClips(Videos(2, 4), clips.placements)) == 4
