"""Distances between generated clips and a data set: which clips are compared, and the protocol that says so."""

import json
from types import SimpleNamespace

import pytest
import torch

from ulzoo.data import DataContract
from ulzoo.data.source import TensorSource
from ulzoo.evaluation import generation_distance
from ulzoo.media.pixels import from_uint8
from ulzoo.model.contract import Contract

FRAMES, SIDE = 4, 2


class Means:
    """Features whose Gaussians are known: the mean of the first frame, and of the last."""

    name, dimension = "fd_means", 2

    def __init__(self):
        self.seen, self.protocol = [], {"network": "none"}

    def __call__(self, clips):
        assert clips.dtype == torch.uint8 and clips.shape[1:] == (3, FRAMES, SIDE, SIDE)
        self.seen.append(clips)
        return torch.stack([clips[:, :, t].float().mean((1, 2, 3)) for t in (0, -1)], 1)


class Model(SimpleNamespace):
    """Draws clips of one grey, or stands still after the frames it was given."""

    def __init__(self, given=0):
        contract = Contract((FRAMES, SIDE, SIDE), 3, (1, 1, 1), 1, 5.0, given_frames=given)
        super().__init__(contract=contract, base=object(), device=torch.device("cpu"), asked=[])

    def sample(self, n, labels=None, frames=None, guidance=None, steps=None, generator=None):
        assert labels is None and (frames is None or len(frames) == n)
        self.asked.append((n, None if frames is None else frames.shape[2]))
        if frames is not None:
            return torch.cat([frames, frames[:, :, -1:].expand(-1, -1, FRAMES - frames.shape[2], -1, -1)], 2)
        grey = torch.randint(0, 256, (n, 1, 1, 1, 1), generator=generator).byte()
        return from_uint8(grey.expand(n, 3, FRAMES, SIDE, SIDE))


def source(n=10):
    """Clips of one grey, 10 brighter from one to the next, all but the first of which end darker by 1."""
    clips = (10 * torch.arange(n)).reshape(n, 1, 1, 1, 1).repeat(1, 3, FRAMES, SIDE, SIDE)
    clips[1:, :, -1] -= 1
    contract = DataContract(3, SIDE, 0, (), FRAMES, 8.0)
    return TensorSource(clips.byte(), [-1] * n, [str(i) for i in range(n)], contract)


def distance(x, y):
    """Through the eigenvalues of Σ_x Σ_y."""
    a, b = x.T.cov(), y.T.cov()
    between = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * between).item()


def test_given_frames_are_the_reference_s_and_are_compared():
    model, features, told = Model(given=2), Means(), []
    options = {"data": {"kind": "x"}, "reference": "train", "batch_size": 4}
    results = generation_distance(model, source(), features, **options, on_image=lambda *done: told.append(done))
    assert model.asked == [(4, 2), (4, 2), (2, 2)]
    real, made = torch.cat(features.seen[:3]), torch.cat(features.seen[3:])
    assert torch.equal(real, source().images) and torch.equal(made[:, :, :2], real[:, :, :2])
    assert told == [(4, 20), (8, 20), (10, 20), (14, 20), (18, 20), (20, 20)]
    x, y = (Means()(clips).double() for clips in (real, made))
    assert results["figures"] == {"fd_means": pytest.approx(distance(x, y), rel=1e-3)}
    assert results["figures"]["fd_means"] > 0.1
    protocol = results["protocol"]
    assert json.loads(json.dumps(results)) == results
    assert protocol["network"] == "none" and protocol["reference"] == "train" and protocol["data"] == {"kind": "x"}
    for key in ("clip", "resize", "frame_rate", "base_sampler", "base_steps", "decoder_steps", "guidance", "seed"):
        assert key in protocol
    assert (protocol["clips"], protocol["reference_clips"], protocol["frames"]) == (10, 10, FRAMES)
    assert protocol["given_frames_compared"] is True and protocol["given_frames_of"] == "train"
    assert "caution" not in protocol


def test_more_clips_than_the_reference_has_begin_again():
    model, features = Model(given=1), Means()
    protocol = generation_distance(model, source(5), features, data={}, clips=12, batch_size=4)["protocol"]
    assert (protocol["clips"], protocol["reference_clips"]) == (12, 5)
    made = torch.cat(features.seen[2:])
    assert made[:, 0, 0, 0, 0].tolist() == [10 * (i % 5) for i in range(12)]


def test_whole_clips_and_fewer_than_the_reference_has():
    model, features = Model(), Means()
    results = generation_distance(model, source(), features, data={}, clips=6, batch_size=4, seed=3)
    assert model.asked == [(4, None), (2, None)]
    assert torch.equal(torch.cat(features.seen[:2]), source().images[:6])
    assert results["protocol"]["given_frames_compared"] is False and results["protocol"]["given_frames_of"] is None
    again = generation_distance(Model(), source(), Means(), data={}, clips=6, batch_size=4, seed=3)
    other = generation_distance(Model(), source(), Means(), data={}, clips=6, batch_size=4, seed=4)
    assert again == results
    assert other["figures"] != results["figures"]


def test_no_more_clips_than_dimensions_is_said():
    with pytest.warns(UserWarning, match="fd_means of 2 clips: with no more clips than its 2 dimensions"):
        results = generation_distance(Model(), source(), Means(), data={}, clips=2)
    assert "2 clips for 2 dimensions" in results["protocol"]["caution"]


def test_what_cannot_be_compared():
    def refused(words, model, data):
        with pytest.raises(ValueError, match=words):
            generation_distance(model, data, Means(), data={})

    images, first_stage = Model(), Model()
    images.contract = Contract((SIDE, SIDE), 3, (1, 1), 1, 5.0)
    first_stage.base = None
    refused("a model of images", images, source())
    refused("has no base", first_stage, source())
    refused("at least 2 clips, not 1", Model(), source(1))
