"""CLIP score: how well samples agree with their captions, the mean of 100 · max(cos(image, caption), 0).

Hessel et al. 2021 (arXiv 2104.08718), with the factor 100 that papers on text-to-image use instead of 2.5, and without
their "A photo depicts" before captions. It depends on the network, which the paper does not name: OpenAI's ViT-L/14 is
common, and ViT-B/32 was used by Hessel et al. The samples are those whose Fréchet distance is measured, in one pass.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ulzoo.data import Source
from ulzoo.evaluation.collected import ExampleValues
from ulzoo.evaluation.features.clip import ClipNetwork
from ulzoo.evaluation.protocol import Protocol
from ulzoo.media.pixels import to_uint8

DEFINITION = "mean of 100 · max(cos(image, caption), 0), captions as they are"
SAMPLED = ("data", "fingerprint", "samples", "labels", "base_sampler", "base_steps", "guidance", "guidance_interval")
SAMPLED += ("decoder_sampler", "decoder_steps", "decoder_network", "seed", "noise", "dtype", "reference")
"""The protocol fields of samples that their scores depend on too; the reference is where the captions come from."""


class CaptionScores:
    """Collects the agreement of samples with their captions.

    Args:
        clip: the network.
        source: the examples whose captions the samples get.

    Raises:
        ValueError: the source has no captions as text.
    """

    def __init__(self, clip: ClipNetwork, source: Source) -> None:
        self.clip, self.source = clip, source
        self.values = ExampleValues()
        source.caption(0)  # raises before anything is sampled

    def add(self, x: Tensor, indices: Sequence[int]) -> None:
        """Add samples (B, C, H, W) in [-1, 1], and the numbers of the examples in the source that they belong to."""
        self.values.add("cosines", self.clip(to_uint8(x), [self.source.caption(index) for index in indices]))
        self.values.add("indices", torch.tensor(indices))

    def state(self) -> dict[str, Tensor]:
        """The cosines of all samples, and their examples."""
        return self.values.state()

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Replace the content by that of one or more states together."""
        self.values.restore(states)

    def metrics(self, samples: Mapping[str, Any]) -> tuple[dict[str, float], Protocol]:
        """The score and its standard error over samples, and their protocol.

        Args:
            samples: the protocol of the samples' distance.
        """
        scores = 100 * self.values.rows("cosines").clamp(min=0)
        figures = {"clip_score": scores.mean().item(), "clip_score_se": scores.std().item() / len(scores) ** 0.5}
        captions = hashlib.sha256()
        for index in self.values.rows("indices").long().tolist():
            captions.update(self.source.caption(index).encode() + b"\0")
        return figures, Protocol(
            figures=list(figures),
            compared="samples, with their captions",
            clip_score=DEFINITION,
            captions_sha256=captions.hexdigest(),
            **self.clip.protocol,
            **{field: samples[field] for field in SAMPLED if field in samples},
        )
