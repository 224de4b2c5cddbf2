"""Fréchet distances of the points of a sweep, all measured by the same feature network, of images or of clips."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ulzoo.data.subset import spread_out
from ulzoo.evaluation import EvaluationConfig, FrechetConfig, generation_distance, image_distances
from ulzoo.evaluation.execution import Execution, unfinished_folder
from ulzoo.evaluation.features.clip import ClipNetwork, load_clip
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.features.loading import load_features
from ulzoo.evaluation.features.videos import I3DLogits, VideoFeatures
from ulzoo.evaluation.video_distances import MAX_CLIPS
from ulzoo.registry.compile import data_contract, open_source
from ulzoo.registry.runs.evaluate import DETECTOR_FILES, IMAGE_DISTANCES
from ulzoo.registry.runs.export import Export
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.zoo.catalogue import open_model


@dataclass(frozen=True)
class DistanceConfig:
    """The distances that are measured for every point.

    Attributes:
        network: "fid" or "fd_efficientnet_lite0" for images, "fvd" or "fd_transnetv2" for clips.
        samples: number of images to generate and compare with the training split; None: reconstructions only.
        clips: number of clips to generate and compare with the validation split; None: as many as that has, at most
            2048.
        detector: file with the weights of "fid" or "fvd"; default: torch's cache.
        clip_score: the network of the CLIP score of the samples, whose weights are in torch's cache; None for none.
    """

    network: str
    samples: int | None = None
    detector: str | None = None
    clip_score: str | None = None
    clips: int | None = None

    @property
    def of_images(self) -> bool:
        """Whether images are compared, not clips."""
        return self.network in IMAGE_DISTANCES

    def identity(self) -> dict[str, Any]:
        """What the metrics depend on. The detector is left out, since its hash is checked when it is loaded."""
        later = ("clip_score", "clips")  # which rows of earlier versions do not have
        keys = {key: value for key, value in asdict(self).items() if key != "detector"}
        return {key: value for key, value in keys.items() if key not in later or value is not None}

    @classmethod
    def from_options(
        cls,
        network: str | None,
        samples: int | None,
        detector: Path | None,
        clip_score: str | None = None,
        clips: int | None = None,
    ) -> "DistanceConfig | None":
        """From the options of the command line; None without --frechet.

        Raises:
            ValueError: the options do not fit together, or the network cannot be loaded.
        """
        if clip_score and not samples:
            raise ValueError("--clip-score goes with --frechet and --samples")
        if network is None:
            if samples or clips or detector:
                raise ValueError("--samples, --clips and --detector go with --frechet")
            return None
        path = os.path.abspath(detector) if detector else None
        config = cls(network, samples, path, clip_score, clips)
        if samples and not config.of_images:
            raise ValueError("--samples goes with --frechet fid or fd_efficientnet_lite0; clips take --clips")
        if clips and config.of_images:
            raise ValueError("--clips goes with --frechet fvd or fd_transnetv2; images take --samples")
        if detector and network not in DETECTOR_FILES:
            raise ValueError("--detector gives the weights of a detector, so it goes with --frechet fid or fvd")
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
    size = data_contract(spec).size
    compared, generated = ("images", "clips") if config.of_images else ("clips", "images")
    if (len(size) > 2) == config.of_images:
        raise spec.error("data", f"--frechet {config.network} compares {compared}: this is a model of {generated}")
    if config.samples and spec.base is not None and "base" not in stages:
        raise spec.error("base", "--samples needs all stages, not --stage latents")
    if not config.of_images and "base" not in stages:
        needed = "a base, which this spec has not" if spec.base is None else "all stages, not --stage latents"
        raise spec.error("base", f"--frechet {config.network} needs {needed}")
    if config.network == I3DLogits.name and size[0] < I3DLogits.min_frames:
        raise spec.error("data.frames", f"fvd needs clips of at least {I3DLogits.min_frames} frames, not {size[0]}")
    if config.clip_score and not (spec.base and spec.base.text_conditional):
        raise spec.error("base.text_conditional", "--clip-score needs a base with captions")


def measure_distances(config: DistanceConfig, folder: Path, device: str) -> dict[str, Any]:
    """The distances of the model that a run exported, as {"figures": …, "protocol": …}."""
    return distances_of(config, open_model(str(folder), device), device)


def distances_of(config: DistanceConfig, loaded: Export, device: str) -> dict[str, Any]:
    """The distances of a model, as {"figures": …, "protocol": …}."""
    evaluation, validation = EvaluationConfig(loaded.spec.data_identity()), open_source(loaded.spec, "val")
    features = config.load_network(device)
    if config.of_images:
        reference = open_source(loaded.spec, "train") if config.samples else None
        frechet = FrechetConfig(features, samples=config.samples, reference=reference, clip=config.load_clip(device))
        return image_distances(loaded.model, validation, evaluation, frechet)
    reference = spread_out(validation, config.clips or MAX_CLIPS)
    frechet = FrechetConfig(features, samples=config.clips, reference=reference, reference_split="val")
    execution = Execution(folder=unfinished_folder())
    results = generation_distance(loaded.model, evaluation, frechet, execution=execution)
    execution.finish()
    protocol = results["protocol"] | evaluation.shared_fields(loaded.model)
    return {"figures": results["figures"], "protocol": {"frechet": protocol}}
