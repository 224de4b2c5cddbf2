"""Fréchet distances of the points of a sweep, all measured by the same feature network. Images only."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ulzoo.evaluation import EvaluationConfig, FrechetConfig, image_distances
from ulzoo.evaluation.features.clip import ClipNetwork, load_clip
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.features.loading import load_features
from ulzoo.evaluation.features.videos import VideoFeatures
from ulzoo.registry.compile import data_contract, open_source
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.zoo.catalogue import open_model


@dataclass(frozen=True)
class DistanceConfig:
    """The distances that are measured for every point.

    Attributes:
        network: "fid" or "fd_efficientnet_lite0".
        samples: number of samples to compare with the training split; None: reconstructions only.
        detector: file with Inception's weights; default: torch's cache.
        clip_score: the network of the CLIP score of the samples, whose weights are in torch's cache; None for none.
    """

    network: str
    samples: int | None = None
    detector: str | None = None
    clip_score: str | None = None

    def identity(self) -> dict[str, Any]:
        """What the metrics depend on. The detector is left out, since its hash is checked when it is loaded."""
        left_out = ("detector",) if self.clip_score else ("detector", "clip_score")  # as in rows of earlier versions
        return {key: value for key, value in asdict(self).items() if key not in left_out}

    @classmethod
    def from_options(
        cls, network: str | None, samples: int | None, detector: Path | None, clip_score: str | None = None
    ) -> "DistanceConfig | None":
        """From the options of the command line; None without --frechet.

        Raises:
            ValueError: the options do not fit together, or the network cannot be loaded.
        """
        if clip_score and not samples:
            raise ValueError("--clip-score goes with --frechet and --samples")
        if network is None:
            if samples or detector:
                raise ValueError("--samples and --detector go with --frechet")
            return None
        if detector and network != "fid":
            raise ValueError("--detector gives Inception's weights, so it goes with --frechet fid")
        config = cls(network, samples, os.path.abspath(detector) if detector else None, clip_score)
        config.load_network()
        config.load_clip()
        return config

    def load_network(self, device: str = "cpu") -> ImageFeatures | VideoFeatures:
        """Load the feature network. ValueError if its weights or packages are missing."""
        return load_features(self.network, Path(self.detector) if self.detector else None, device=device)

    def load_clip(self, device: str = "cpu") -> ClipNetwork | None:
        """Load the network of the CLIP score, if it is measured. ValueError if its weights or packages are missing."""
        return load_clip(self.clip_score, device=device) if self.clip_score else None


def check_distances(config: DistanceConfig, spec: Spec, stages: tuple[str, ...]) -> None:
    """Check before training that the distances can be measured for a spec. SpecError if not."""
    if len(data_contract(spec).size) > 2:
        raise spec.error("data", f"--frechet {config.network} compares images: this is a model of clips")
    if config.samples and spec.base is not None and "base" not in stages:
        raise spec.error("base", "--samples needs all stages, not --stage latents")
    if config.clip_score and not (spec.base and spec.base.text_conditional):
        raise spec.error("base.text_conditional", "--clip-score needs a base with captions")


def measure_distances(config: DistanceConfig, folder: Path, device: str) -> dict[str, Any]:
    """The distances of the model that a run exported, as {"figures": …, "protocol": …}."""
    loaded = open_model(str(folder), device)
    frechet = FrechetConfig(
        config.load_network(device),
        samples=config.samples,
        reference=open_source(loaded.spec, "train") if config.samples else None,
        clip=config.load_clip(device),
    )
    evaluation = EvaluationConfig(loaded.spec.data_identity())
    return image_distances(loaded.model, open_source(loaded.spec, "val"), evaluation, frechet)
