"""Evaluation of a trained model: from options to data, networks and settings, which several models may share."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ulzoo.data import Source
from ulzoo.data.fingerprint import fingerprint
from ulzoo.data.subset import spread_out
from ulzoo.evaluation import EvaluationConfig, FrechetConfig
from ulzoo.evaluation import evaluate as evaluate_model
from ulzoo.evaluation.clip_protocols import choose_protocol
from ulzoo.evaluation.features.clip import load_clip
from ulzoo.evaluation.features.loading import load_features, load_lpips
from ulzoo.evaluation.features.videos import I3DLogits
from ulzoo.evaluation.mean_image import MeanImage
from ulzoo.evaluation.video_distances import MAX_CLIPS
from ulzoo.files.atomic import sha256
from ulzoo.model.contract import DecoderName
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.runs.cautions import mean_training_image
from ulzoo.registry.runs.export import Export
from ulzoo.registry.runs.inference import optimize_for_inference
from ulzoo.registry.runs.own_data import default_split, open_data, replace_data
from ulzoo.registry.spec.schema import Spec
from ulzoo.runtime.devices import Precision
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup

IMAGE_DISTANCES = ("fid", "fd_dinov2", "fd_efficientnet_lite0")
DETECTOR_FILES = ("fid", "fd_dinov2", "fvd")  # distances whose network is a published file
LPIPS_FILES = ("alex", "vgg")
PROCESS_TIMEOUT = 24 * 60.0  # minutes that processes wait for each other


@dataclass(frozen=True)
class DataOptions:
    """The images or clips that a model is measured on.

    Attributes:
        images, settings: data in place of the model's own, as `replace_data` takes them.
        split: which split of it; None for val, or all of `images`.
        limit: number of examples, spread over all; None for all.
    """

    images: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    split: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class NetworkOptions:
    """Files of the networks that metrics need.

    Attributes:
        detector: weights of the distance's network; None for the file in torch's cache.
        detector_sha256: hash of `detector`, if it is not the published file.
        lpips: which LPIPS is measured; None for none.
        lpips_weights: weights of its network; None for the file in torch's cache.
        clip_weights: weights of the CLIP score's network; None for the file in torch's cache.
        download: download published files that are not in the cache.
    """

    detector: Path | None = None
    detector_sha256: str | None = None
    lpips: str | None = None
    lpips_weights: Path | None = None
    clip_weights: Path | None = None
    download: bool = False


@dataclass(frozen=True)
class DistanceOptions:
    """The distance between sets of images or clips, and the sets.

    Attributes:
        metric: the distance; None for none.
        samples, clips: number of images or clips to generate; None for reconstructions, or the default of clips.
        clip_protocol, folds: the protocol of clips, and its number of folds.
        reference: the split to compare with; None for the default.
        reference_statistics: a file with mean and covariance, in place of the reference's images.
        save_statistics, save_samples: files to write.
        all_distances: also measure what else these features give.
        clip_score: the network of the CLIP score of the samples; None for none.
    """

    metric: str | None = None
    samples: int | None = None
    clips: int | None = None
    clip_protocol: str | None = None
    folds: int | None = None
    reference: str | None = None
    reference_statistics: Path | None = None
    save_statistics: Path | None = None
    save_samples: Path | None = None
    all_distances: bool = False
    clip_score: str | None = None

    @property
    def of_images(self) -> bool:
        return self.metric in IMAGE_DISTANCES


@dataclass(frozen=True)
class EvaluationOptions:
    """What `ulzoo evaluate` measures of a model.

    Attributes:
        data, distance, networks: groups of options.
        rate_samples, decoder, guidance, batch_size, seed: as in `EvaluationConfig`.
        steps: of the decoder, for reconstructions.
        decompose_rate: also measure how the rate is distributed over log-SNR and channels.
        precision, compile: how the networks run, as in `optimize_for_inference`.

    Raises:
        ValueError: the options do not fit together.
    """

    data: DataOptions = DataOptions()
    distance: DistanceOptions = DistanceOptions()
    networks: NetworkOptions = NetworkOptions()
    rate_samples: int = 8
    decoder: DecoderName | None = None
    steps: int | None = None
    guidance: float | None = None
    batch_size: int | None = None
    seed: int = 0
    decompose_rate: bool = False
    precision: Precision = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        distance, networks = self.distance, self.networks
        detector_file, lpips_file = distance.metric in DETECTOR_FILES, networks.lpips in LPIPS_FILES
        for conflict, message in (
            (
                not detector_file and (networks.detector or networks.detector_sha256),
                "--detector and --detector-sha256 go with --frechet fid, fd_dinov2 or fvd",
            ),
            (not lpips_file and networks.lpips_weights, "--lpips-weights goes with --lpips alex or vgg"),
            (not distance.clip_score and networks.clip_weights, "--clip-weights goes with --clip-score"),
            (distance.clip_score and not distance.samples, "--clip-score goes with --frechet and --samples"),
            (
                not detector_file and not lpips_file and not distance.clip_score and networks.download,
                "--download goes with --frechet fid, fd_dinov2 or fvd, --lpips alex or vgg, or --clip-score",
            ),
            (
                distance.metric is None and (distance.clips or distance.reference),
                "--clips and --reference go with --frechet",
            ),
            (
                distance.clip_protocol and (distance.metric is None or distance.of_images),
                "--clip-protocol goes with --frechet fvd or fd_transnetv2",
            ),
            (distance.folds and not distance.clip_protocol, "--folds goes with --clip-protocol"),
            (
                not distance.of_images
                and (
                    distance.samples
                    or distance.all_distances
                    or distance.reference_statistics
                    or distance.save_statistics
                ),
                "--samples, --reference-statistics, --save-statistics and --all-distances go with --frechet fid, "
                "fd_dinov2 or fd_efficientnet_lite0",
            ),
            (
                distance.samples is None
                and (distance.reference_statistics or distance.save_samples or self.guidance is not None),
                "--reference-statistics, --save-samples and --guidance go with --samples",
            ),
            (
                distance.of_images and (distance.clips or (distance.reference and distance.samples is None)),
                "distances of images take --samples instead of --clips, and --reference only with it",
            ),
        ):
            if conflict:
                raise ValueError(message)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is ready to run, of one model or of several models of one spec.

    Attributes:
        source: the examples to measure on.
        config: the settings that all metrics share, with their networks.
        frechet: the sets that are compared; None for no distance.
        compile: compile the networks of each model.
    """

    source: Source
    config: EvaluationConfig
    frechet: FrechetConfig | None
    compile: bool

    @classmethod
    def open(cls, export: Export, options: EvaluationOptions, device: torch.device) -> "Evaluation":
        """Open the data of a model and load the networks that its metrics need.

        Raises:
            ValueError: data or weights are missing, or the model is of another kind than the distance.
        """
        data, networks = options.data, options.networks
        spec = replace_data(export, data.images, data.settings)
        split = data.split or default_split(data.images)
        source = spread_out(open_data(export, spec, split), data.limit)
        frechet = _frechet(export, spec, split, options, device) if options.distance.metric else None
        lpips = networks.lpips and load_lpips(
            networks.lpips, networks.lpips_weights, download=networks.download, device=device
        )
        config = EvaluationConfig(
            spec.data_identity(),
            split=split,
            batch_size=options.batch_size,
            seed=options.seed,
            rate_samples=options.rate_samples,
            decompose_rate=options.decompose_rate,
            lpips=lpips or None,
            decoder=options.decoder,
            decoder_steps=options.steps,
            guidance=options.guidance,
            mean_image=_mean_image(export, spec, own_images=bool(data.images)),
            precision=options.precision,
        )
        return cls(source, config, frechet, options.compile)

    def settings_hash(self, model: UnifiedLatents) -> str:
        """Equal for evaluations of models of one spec that have the same protocols, before anything is measured."""
        config, frechet = self.config, self.frechet
        count = config.count(self.source)
        settings: dict[str, Any] = {
            "data": [config.data, config.split, count, fingerprint(self.source, count).identity],
            "rate": [config.rate_samples, config.decompose_rate],
            "sampling": {name: asdict(sampling) for name, sampling in model.contract.sampling.items()},
            "options": [config.seed, config.decoder, config.decoder_steps, config.base_steps, config.guidance],
            "numerics": config.shared_fields(model),
            "lpips": config.lpips and config.lpips.protocol,
            "mean_image": config.mean_image and config.mean_image.protocol,
        }
        if frechet:
            settings["frechet"] = {
                "network": frechet.features.protocol,
                "samples": frechet.samples,
                "reference": [frechet.reference_name, frechet.reference and fingerprint(frechet.reference).identity],
                "statistics": frechet.statistics and sha256(frechet.statistics),
                "all_distances": frechet.all_distances,
                "clip": frechet.clip and frechet.clip.protocol,
                "clip_protocol": frechet.clip_protocol and asdict(frechet.clip_protocol),
            }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def run(
        self,
        model: UnifiedLatents,
        *,
        processes: ProcessGroup = SINGLE_PROCESS,
        on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
    ) -> dict[str, Any]:
        """The metrics of a model with their protocol, as `ulzoo.evaluation.evaluate` returns them.

        The model is prepared for inference in place.
        """
        optimize_for_inference(model, precision=self.config.precision, compile=self.compile)
        return evaluate_model(
            model, self.source, self.config, self.frechet, processes=processes, on_progress=on_progress
        )


def _frechet(export: Export, spec: Spec, split: str, options: EvaluationOptions, device: torch.device) -> FrechetConfig:
    """The sets that are compared, and the network. Raises ValueError."""
    distance, networks, model = options.distance, options.networks, export.model
    assert distance.metric is not None
    generates = bool(distance.samples) or not distance.of_images
    _check_model(distance.metric, model, generates=generates)
    protocol = choose_protocol(distance.clip_protocol, distance.folds, distance.clips)
    if protocol:
        protocol.check(model.contract)
    clip = None
    if distance.clip_score:
        if not model.contract.text_width:
            raise ValueError("--clip-score needs a model of captions: this one takes none")
        clip = load_clip(distance.clip_score, networks.clip_weights, download=networks.download, device=device)
    reference = distance.reference or ("train" if distance.of_images and not options.data.images else split)
    examples = open_data(export, spec, reference, samples=bool(distance.samples)) if generates else None
    if examples is not None and not distance.of_images and not protocol:
        examples = spread_out(examples, distance.clips or MAX_CLIPS)
    return FrechetConfig(
        load_features(
            distance.metric,
            networks.detector,
            sha256=networks.detector_sha256,
            download=networks.download,
            device=device,
        ),
        samples=distance.samples if distance.of_images else distance.clips,
        reference=examples,
        reference_split=reference,
        statistics=distance.reference_statistics,
        save_statistics=distance.save_statistics,
        save_samples=distance.save_samples,
        all_distances=distance.all_distances,
        clip=clip,
        clip_protocol=protocol,
    )


def _mean_image(export: Export, spec: Spec, *, own_images: bool) -> MeanImage | None:
    """The mean training image, of the export or, where an earlier version wrote that, of the data."""
    mean_image = MeanImage.from_dict(export.results.get("mean_image"), export.model.contract.channels)
    if mean_image is None and not own_images and not getattr(spec.data, "download", False):
        mean_image = mean_training_image(spec)
    return mean_image


def _check_model(metric: str, model: UnifiedLatents, *, generates: bool) -> None:
    """Check that a Fréchet distance suits the model, before any weights are loaded and anything is measured.

    Raises:
        ValueError: it compares clips instead of images, or the reverse, or needs a base or longer clips.
    """
    contract, of_images = model.contract, metric in IMAGE_DISTANCES
    if contract.video == of_images:
        compared, generated = ("images", "clips") if of_images else ("clips", "images")
        raise ValueError(f"--frechet {metric} compares {compared}: this is a model of {generated}")
    if model.base is None and not contract.single_stage and generates:
        raise ValueError("--frechet needs a base: this model's second stage was not trained")
    if metric == "fvd" and contract.size[0] < I3DLogits.min_frames:
        raise ValueError(f"fvd needs clips of at least {I3DLogits.min_frames} frames, not {contract.size[0]}")
