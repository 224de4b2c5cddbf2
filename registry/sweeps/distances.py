"""Distances of a sweep's points from their data, where they are asked for: between images, by one network for all."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ulzoo.evaluation import image_distances
from ulzoo.evaluation.features.images import ImageFeatures, efficientnet_lite0, find_inception, inception_v3
from ulzoo.registry.compile import data_contract
from ulzoo.registry.runs.train import described_data, open_source
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.zoo.catalogue import open_model


@dataclass(frozen=True)
class DistanceConfig:
    """Which distances every point is to have.

    Attributes:
        network: "fid" or "fd_efficientnet_lite0".
        samples: how many images to draw and compare with the training split; None: reconstructions only.
        detector: file of Inception's weights, where they are not in torch's cache.
    """

    network: str
    samples: int | None = None
    detector: str | None = None

    def identity(self) -> dict[str, Any]:
        """What the figures depend on; the file's hash is checked when it is read."""
        return {key: value for key, value in asdict(self).items() if key != "detector"}

    def open(self, device: str = "cpu") -> ImageFeatures:
        """The network. ValueError if its weights or packages are not here."""
        if self.network == "fid":
            file = Path(self.detector) if self.detector else None
            return inception_v3(*find_inception(file, None, download=False), device)
        return efficientnet_lite0(device)


def ask(network: str | None, samples: int | None, detector: Path | None) -> DistanceConfig | None:
    """What a command line asks for. ValueError if it does not fit together, or the network is not here."""
    if network is None:
        if samples or detector:
            raise ValueError("--samples and --detector go with --frechet")
        return None
    if detector and network != "fid":
        raise ValueError("--detector is Inception's weights, for --frechet fid")
    asked = DistanceConfig(network, samples, os.path.abspath(detector) if detector else None)
    asked.open()
    return asked


def check_distances(asked: DistanceConfig, spec: Spec, stages: tuple[str, ...]) -> None:
    """Refuse what a point cannot have, before anything is trained. SpecError, a ValueError."""
    if len(data_contract(spec).size) > 2:
        raise spec.error("data", f"--frechet {asked.network} compares images: this is a model of clips")
    if asked.samples and spec.base is not None and "base" not in stages:
        raise spec.error("base", "--samples needs all stages, not --stage latents")


def measure_distances(asked: DistanceConfig, folder: Path, device: str) -> dict[str, Any]:
    """Of the model that a run exported, {"figures", "protocol"}."""
    loaded = open_model(str(folder), device)
    return image_distances(
        loaded.model,
        open_source(loaded.spec, "val"),
        asked.open(device),
        data=described_data(loaded.spec),
        samples=asked.samples,
        reference=open_source(loaded.spec, "train") if asked.samples else None,
    )
