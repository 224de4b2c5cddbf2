"""Metrics of features of images: Fréchet and kernel distance, precision and recall, Inception score."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ulzoo.data.loader import Skipped
from ulzoo.evaluation.collected import Collected, ExampleValues
from ulzoo.evaluation.config import EvaluationConfig
from ulzoo.evaluation.execution import Execution, PartialResults
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.frechet import DISTANCE, FeatureStatistics, bias_caution, frechet_distance
from ulzoo.evaluation.reference import Reference
from ulzoo.media.pixels import to_uint8
from ulzoo.model.unified_latents import UnifiedLatents

SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance
NEIGHBOURS = 3  # of precision and recall
SPLITS = 10  # of the Inception score


class FeatureCollector:
    """Collects the features of a model's images, as far as the metrics need them.

    Args:
        network: computes the features.
        keep: keep all features, for the metrics that are not functions of mean and covariance.

    Attributes:
        skipped: examples that could not be read, of which there are no images.
    """

    def __init__(self, network: ImageFeatures, keep: bool) -> None:
        self.network, self.keep = network, keep
        self.statistics = FeatureStatistics(network.dimension)
        self.kept = ExampleValues()
        self.skipped: Skipped = {}

    def add(self, x: Tensor) -> None:
        """Add images (B, C, H, W) in [-1, 1]."""
        features, logits = self.network(to_uint8(x))
        self.statistics.add(features)
        if self.keep:
            self.kept.add("features", features)
            if logits is not None:
                self.kept.add("logits", logits)

    def state(self) -> dict[str, Tensor]:
        """The statistics, and the features that are kept."""
        return {**self.statistics.state(), **self.kept.state()}

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Replace the content by that of one or more states together."""
        self.statistics.restore(states)
        self.kept.restore(states)

    def metrics(self, prefix: str, reference: Reference, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
        """All metrics, and the protocol fields that describe them.

        The name of FID ends in the number of images if that is a multiple of a thousand: `gfid_50k`, `rfid_5k`.

        Args:
            prefix: "r" for reconstructions, "g" for samples.
            reference: what the images are compared with; with its features, if these keep theirs.
            seed: seed of the subsets and splits.
        """
        name, short, count = self.network.name, self.network.short, self.statistics.count
        thousands = f"_{count // 1000}k" if name == "fid" and count % 1000 == 0 else ""
        metrics = {f"{prefix}{name}{thousands}": frechet_distance(self.statistics, reference.gaussian)}
        fields: dict[str, Any] = {"distance": DISTANCE}
        fewest = min(count, reference.images or count)
        fields |= bias_caution(f"{prefix}{name}", fewest, self.network.dimension, kind="images")
        if self.keep:
            assert reference.features is not None
            values, descriptions = _compare_features(self.kept.rows("features").float(), reference.features, seed)
            kernel = "kid" if name == "fid" else f"kd{short}"
            names = {"kernel": kernel, "precision": f"precision{short}", "recall": f"recall{short}"}
            metrics |= {f"{prefix}{names[metric]}": value for metric, value in values.items()}
            fields |= descriptions
        if "logits" in self.kept and prefix == "g":
            from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

            score = isc_features_to_metric(self.kept.rows("logits").float(), SPLITS, True, seed)
            metrics["inception_score"] = score[KEY_METRIC_ISC_MEAN]
            fields["inception_score"] = f"torch-fidelity's, mean over {SPLITS} splits"
        return metrics, fields


def partial_features(
    collector: FeatureCollector,
    model: UnifiedLatents,
    protocol: Mapping[str, Any],
    config: EvaluationConfig,
    execution: Execution,
    others: Mapping[str, Collected] | None = None,
) -> PartialResults:
    """What the collector and others, by name, collect, restored after an interruption."""
    identity = {"batch_size": config.examples_per_batch(), "keep": collector.keep}
    identity |= {**protocol, **config.shared_fields(model)}
    return execution.partial_results({"features": collector, **(others or {})}, model, identity)


def _compare_features(features: Tensor, reference: Tensor, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """torch-fidelity's kernel distance, precision and recall of features (N, D), and their protocol fields."""
    from torch_fidelity import metric_kid, metric_prc

    size = min(SUBSET_SIZE, len(features), len(reference))
    kernel = metric_kid.kid_features_to_metric(
        features, reference, kid_subsets=SUBSETS, kid_subset_size=size, rng_seed=seed, verbose=False
    )
    metrics = {"kernel": kernel[metric_kid.KEY_METRIC_KID_MEAN]}
    fields = {"kernel": f"torch-fidelity's, cubic, mean over {SUBSETS} subsets of {size}"}
    if min(len(features), len(reference)) > NEIGHBOURS:
        neighbours = metric_prc.prc_features_to_metric(
            features, reference, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False
        )
        metrics |= {key: neighbours[key] for key in (metric_prc.KEY_METRIC_PRECISION, metric_prc.KEY_METRIC_RECALL)}
        fields["neighbours"] = f"torch-fidelity's precision and recall, {NEIGHBOURS} nearest"
    return metrics, fields
