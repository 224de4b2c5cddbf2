"""The CLIP score: its definition, whose captions and samples it compares, several processes, and its protocol."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ulzoo.data import Emoji3D
from ulzoo.data.source import TensorSource
from ulzoo.evaluation import EvaluationConfig, FrechetConfig
from ulzoo.evaluation.clip_score import CaptionScores
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.image_distances import image_distances
from ulzoo.media.captions import pad
from ulzoo.media.pixels import to_uint8
from ulzoo.registry import load_spec

pytestmark = pytest.mark.filterwarnings("ignore:.*dimensions it is far too large")
PROTOCOL = {"samples": 4, "guidance": 1.0, "reference": "val", "reference_sha256": "of the images"}


class Signs:
    """The cosine is 0.3 for captions of an even number of letters, else -0.4."""

    def __init__(self):
        self.protocol = {"network": "signs", "network_sha256": "0"}

    def __call__(self, images, captions):
        assert images.dtype == torch.uint8 and len(images) == len(captions)
        return torch.tensor([-0.4 if len(caption) % 2 else 0.3 for caption in captions])


class Captions:
    """A source of captions of 0, 1, 2, … letters."""

    def caption(self, index):
        return "a" * index


class Brightness(nn.Module):
    """Features of images: the means of two channels."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return (images.float().mean((2, 3))[:, :2],)


def test_negative_cosines_count_as_zero():
    scores = CaptionScores(Signs(), Captions())
    scores.add(torch.zeros(3, 3, 4, 4), [0, 1, 2])
    scores.add(torch.zeros(1, 3, 4, 4), [4])
    figures, protocol = scores.metrics(PROTOCOL)
    assert figures == {"clip_score": pytest.approx(22.5), "clip_score_se": pytest.approx(7.5)}
    assert protocol["clip_score"] == "mean of 100 · max(cos(image, caption), 0), captions as they are"
    assert (protocol["network"], protocol["samples"], protocol["reference"]) == ("signs", 4, "val")
    assert "reference_sha256" not in protocol, "it depends on the captions, not on the images"

    halves = CaptionScores(Signs(), Captions()), CaptionScores(Signs(), Captions())
    halves[0].add(torch.zeros(3, 3, 4, 4), [0, 1, 2])
    halves[1].add(torch.zeros(1, 3, 4, 4), [4])
    merged = CaptionScores(Signs(), Captions())
    merged.restore([half.state() for half in halves])
    assert merged.metrics(PROTOCOL) == (figures, protocol)
    halves[1].restore([halves[0].state()])
    assert halves[1].metrics(PROTOCOL)[1]["captions_sha256"] != protocol["captions_sha256"]


@pytest.fixture(scope="module")
def captioned(untrained):
    """A model of captions, and the captioned emoji."""
    keys = ("data.captions=true", "base.class_conditional=false", "base.text_conditional=true")
    sampling = ("sample.base.steps=1", "sample.decoder.steps=1", "decoder.backbone.depth=1", "prior.backbone.depth=1")
    spec = load_spec("emoji32_tiny", [*keys, *sampling, "base.backbone.depth=1", "encoder.depth=1"])
    return untrained(spec), Emoji3D("val", resolution=32, captions=True)


def test_samples_are_compared_with_their_own_captions(captioned, on_threads):
    model, source = captioned
    compared = []

    class Recorder(Signs):
        def __call__(self, images, captions):
            compared.append((images, captions))
            return super().__call__(images, captions)

    features = ImageFeatures(Brightness(), "fd_brightness", {"network": "none", "network_sha256": "0"}, 2)
    config = EvaluationConfig({}, limit=2, batch_size=3)
    frechet = FrechetConfig(features, samples=4, reference=source, clip=Recorder())
    results = image_distances(model, source, config, frechet)
    indices = [number * len(source) // 4 for number in range(4)]
    assert [caption for _, captions in compared for caption in captions] == [source.caption(i) for i in indices]
    text = pad([source[i].text for i in indices], source.contract.text_tokens)
    expected = model.sample(4, text=text, generator=config.noise("samples", range(4), model.device))
    assert (torch.cat([images for images, _ in compared]).int() - to_uint8(expected).int()).abs().max() <= 1
    protocol = results["protocol"]["captioned"]
    assert protocol["figures"] == ["clip_score", "clip_score_se"] and protocol["guidance"] == 1.0
    assert "clip_score" not in results["protocol"]["generated"]["figures"]
    alone = image_distances(model, source, config, replace(frechet, clip=None))
    assert alone["protocol"]["generated"] == results["protocol"]["generated"] and "captioned" not in alone["protocol"]

    def shared(processes, _):
        shared = image_distances(model, source, config, replace(frechet, clip=Signs()), processes=processes)
        return {"clip": shared["figures"]["clip_score"]} if processes.is_main else {}

    assert on_threads(2, shared)["clip"] == results["figures"]["clip_score"]


def test_what_is_refused(untrained):
    source = Emoji3D("val", resolution=32)
    other = TensorSource(source.images[:1], labels=[0], keys=["a"], contract=source.contract)
    with pytest.raises(ValueError, match="TensorSource has no captions as text"):
        CaptionScores(Signs(), other)
    features = ImageFeatures(Brightness(), "fd_brightness", {"network": "none", "network_sha256": "0"}, 2)
    frechet = FrechetConfig(features, samples=4, reference=source, clip=Signs())
    with pytest.raises(ValueError, match="a CLIP score needs a model of captions: this one's base takes none"):
        image_distances(untrained(load_spec("emoji32_tiny")), source, EvaluationConfig({}, limit=2), frechet)
