"""Distances between generated clips and a data set: which clips are compared, and the protocol."""

import json
from types import SimpleNamespace

import pytest
import torch

from ulzoo.data import DataContract
from ulzoo.data.source import TensorSource
from ulzoo.evaluation import EvaluationConfig, FrechetConfig, generation_distance
from ulzoo.media.pixels import from_uint8
from ulzoo.model.contract import Contract

FRAMES, SIDE = 4, 2


class Means:
    """Two features: the means of the first frame and of the last."""

    name, dimension = "fd_means", 2

    def __init__(self):
        self.inputs, self.protocol = [], {"network": "none"}

    def __call__(self, clips):
        assert clips.dtype == torch.uint8 and clips.shape[1:] == (3, FRAMES, SIDE, SIDE)
        self.inputs.append(clips)
        return torch.stack([clips[:, :, t].float().mean((1, 2, 3)) for t in (0, -1)], 1)


class Model(SimpleNamespace):
    """Samples clips of one grey, or repeats the last context frame."""

    def __init__(self, context_frames=0):
        contract = Contract((FRAMES, SIDE, SIDE), 3, (1, 1, 1), 1, 5.0, context_frames=context_frames)
        super().__init__(contract=contract, base=object(), device=torch.device("cpu"), calls=[])

    def select_decoder(self, network=None, steps=None):
        return None, self.contract.sampling_with("decoder", steps, None)

    def sample(self, n, *, labels=None, frames=None, guidance=None, steps=None, generator=None, network=None):
        assert labels is None and (frames is None or len(frames) == n)
        self.calls.append((n, None if frames is None else frames.shape[2]))
        if frames is not None:
            return torch.cat([frames, frames[:, :, -1:].expand(-1, -1, FRAMES - frames.shape[2], -1, -1)], 2)
        grey = torch.stack(
            [torch.randint(0, 256, (1, 1, 1, 1), generator=g) for g in generator.streams.generators]
        ).byte()
        return from_uint8(grey.expand(n, 3, FRAMES, SIDE, SIDE))


def source(n=10):
    """Clips of one grey, each 10 brighter than the previous one; all but the first end darker by 1."""
    clips = (10 * torch.arange(n)).reshape(n, 1, 1, 1, 1).repeat(1, 3, FRAMES, SIDE, SIDE)
    clips[1:, :, -1] -= 1
    contract = DataContract(3, SIDE, 0, (), FRAMES, 8.0)
    return TensorSource(clips.byte(), labels=[-1] * n, keys=[str(i) for i in range(n)], contract=contract)


def measured(model, features, *, reference=None, split="val", clips=None, on_progress=None, **options):
    """`generation_distance` from the source above."""
    frechet = FrechetConfig(
        features, samples=clips, reference=source() if reference is None else reference, reference_split=split
    )
    config = EvaluationConfig(**{"data": {}} | options)
    return generation_distance(model, config, frechet, on_progress=on_progress or (lambda done, total: None))


def distance(x, y):
    """Through the eigenvalues of Σ_x Σ_y."""
    a, b = x.T.cov(), y.T.cov()
    between = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * between).item()


def test_context_frames_are_the_reference_s_and_are_compared():
    model, features, progress = Model(context_frames=2), Means(), []
    options = {"data": {"kind": "x"}, "split": "train", "batch_size": 4}
    results = measured(model, features, **options, on_progress=lambda *done: progress.append(done))
    assert model.calls == [(4, 2), (4, 2), (2, 2)]
    real, generated, copied = (torch.cat(features.inputs[i::3]) for i in range(3))  # of each batch that is read
    assert torch.equal(copied, generated)  # this model repeats the last frame
    assert torch.equal(real, source().images) and torch.equal(generated[:, :, :2], real[:, :, :2])
    assert progress == [(4, 10), (8, 10), (10, 10)]
    x, y = (Means()(clips).double() for clips in (real, generated))
    expected = pytest.approx(distance(x, y), rel=1e-3)
    assert results["figures"] == {"fd_means": expected, "fd_means_copy_last": expected}
    assert results["figures"]["fd_means"] > 0.1
    protocol = results["protocol"]
    assert json.loads(json.dumps(results)) == results
    assert protocol["network"] == "none" and protocol["reference"] == "train" and protocol["data"] == {"kind": "x"}
    for key in ("clip", "resize", "frame_rate", "base_sampler", "base_steps", "decoder_steps", "guidance", "seed"):
        assert key in protocol
    assert (protocol["clips"], protocol["reference_clips"], protocol["frames"]) == (10, 10, FRAMES)
    assert protocol["given_frames_compared"] is True and protocol["given_frames_of"] == "train"
    assert "caution" not in protocol


def test_context_frames_repeat_if_the_reference_has_fewer_clips():
    model, features = Model(context_frames=1), Means()
    protocol = measured(model, features, reference=source(5), clips=12, batch_size=4)["protocol"]
    assert (protocol["clips"], protocol["reference_clips"]) == (12, 5)
    generated = torch.cat([*features.inputs[1:6:3], *features.inputs[6:]])
    assert generated[:, 0, 0, 0, 0].tolist() == [10 * (i % 5) for i in range(12)]


def test_whole_clips_and_fewer_than_the_reference_has():
    model, features = Model(), Means()
    results = measured(model, features, clips=6, batch_size=4, seed=3)
    assert model.calls == [(4, None), (2, None)]
    assert torch.equal(torch.cat(features.inputs[:2]), source().images[:6])
    assert results["protocol"]["given_frames_compared"] is False and results["protocol"]["given_frames_of"] is None
    again = measured(Model(), Means(), clips=6, batch_size=4, seed=3)
    other = measured(Model(), Means(), clips=6, batch_size=4, seed=4)
    assert again == results
    assert other["figures"] != results["figures"]


def test_a_caution_if_there_are_no_more_clips_than_dimensions():
    with pytest.warns(UserWarning, match="fd_means of 2 clips: with no more clips than its 2 dimensions"):
        results = measured(Model(), Means(), clips=2)
    assert "2 clips for 2 dimensions" in results["protocol"]["caution"]


def test_sets_that_cannot_be_compared():
    def refused(words, model, reference=None):
        with pytest.raises(ValueError, match=words):
            measured(model, Means(), reference=reference)

    images, first_stage = Model(), Model()
    images.contract = Contract((SIDE, SIDE), 3, (1, 1), 1, 5.0)
    first_stage.base = None
    refused("a model of images", images)
    refused("has no base", first_stage)
    refused("at least 2 clips, not 1", Model(), source(1))
