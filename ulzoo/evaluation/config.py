"""What is measured of a model, and by which protocol."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ulzoo.data import Source
from ulzoo.diffusion import IndependentNoise
from ulzoo.evaluation.clip_protocols import ClipProtocol
from ulzoo.evaluation.features.clip import ClipNetwork
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.features.lpips import Lpips
from ulzoo.evaluation.features.videos import VideoFeatures
from ulzoo.evaluation.mean_image import MeanImage
from ulzoo.model.contract import DecoderName, default_batch_size
from ulzoo.model.distillation import DistilledDecoder
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.devices import tf32_operations
from ulzoo.runtime.seeds import derive_seed

NOISE = "of each example, by the seed, what is measured, and the number of the example"


@dataclass(frozen=True)
class EvaluationConfig:
    """The settings that all metrics share.

    Attributes:
        data: the spec's data section, which is part of the protocol.
        split: the split that the measured source is.
        limit: number of images or clips from the start of the split; all if None.
        batch_size: examples per batch, which does not change the noise; 64 images or 8 clips if None.
        seed: seed of all noise.
        rate_samples: draws of (t, ε) per example for the rate.
        decompose_rate: also measure how the rate is distributed over log-SNR and channels.
        lpips: network of an additional distance between images and reconstructions; None for none.
        decoder: the network that decodes; see `DecodeOptions`.
        decoder_steps: steps of the decoder for reconstructions; its own if None.
        base_steps: steps of the base for samples; the spec's if None.
        guidance: scale of classifier-free guidance for samples; the spec's if None.
        mean_image: the mean training image, whose PSNR is measured too; None for none.
        precision: precision in which the model's networks were prepared to run; only recorded here.
    """

    data: dict[str, Any]
    split: str = "val"
    limit: int | None = None
    batch_size: int | None = None
    seed: int = 0
    rate_samples: int = 8
    decompose_rate: bool = False
    lpips: Lpips | None = None
    decoder: DecoderName | None = None
    decoder_steps: int | None = None
    base_steps: int | None = None
    guidance: float | None = None
    mean_image: MeanImage | None = None
    precision: Literal["fp32", "bf16"] = "fp32"

    def count(self, source: Source) -> int:
        """The number of examples of the source that are measured, if all of them can be read."""
        return min(self.limit or len(source), len(source))

    def noise(self, measured: str, examples: range, device: torch.device) -> IndependentNoise:
        """The noise of examples by their numbers: of its own for what is measured, and whatever the batch is."""
        seeds = [derive_seed(self.seed, measured, number) for number in examples]
        return IndependentNoise(seeds, derive_seed(self.seed, measured), examples.start, device)

    def decoder_protocol(self, model: UnifiedLatents, steps: int | None = None) -> dict[str, Any]:
        """The protocol fields of the network that decodes in a number of steps, its own if None."""
        decoder, sampling = model.select_decoder(self.decoder, steps)
        distilled = {"decoder_network": "distilled"} if isinstance(decoder, DistilledDecoder) else {}
        return {"decoder_sampler": sampling.sampler, "decoder_steps": sampling.steps, **distilled}

    def shared_fields(self, model: UnifiedLatents) -> dict[str, Any]:
        """The protocol fields of everything that is measured of a model: its loss factor and bias, and `numerics`."""
        return {**model.contract.default_rate, **self.numerics(model.device)}

    def numerics(self, device: torch.device) -> dict[str, Any]:
        """The protocol fields of a device's arithmetic, where it is coarser than fp32."""
        precision = {} if self.precision == "fp32" else {"precision": self.precision}
        operations = tf32_operations(device)
        return precision | ({"tf32": operations} if operations else {})

    def examples_per_batch(self, *, video: bool = False) -> int:
        """The batch size, or its default for images or clips."""
        return self.batch_size or default_batch_size(video)


@dataclass(frozen=True)
class FrechetConfig:
    """A distance between sets of images or clips: by which features, of what, and from which reference.

    Attributes:
        features: the network whose features are compared.
        samples: number of images or clips to generate. If None, only reconstructions of images are compared, or as many
            clips are generated as the reference has, at most 2048.
        reference: the examples that samples are compared with, and whose classes, captions or first frames samples
            get; needed for samples.
        reference_split: the split that `reference` is.
        statistics: file with a mean and covariance that samples are compared with instead of the reference's images.
        save_statistics: file to which the mean and covariance are written that samples (without samples,
            reconstructions) were compared with.
        save_samples: `.npz` file to which the samples are written; the evaluation then cannot be resumed.
        all_distances: also measure kernel distance, precision, recall and, with Inception, its score; all features are
            kept in memory.
        clip: a network for the CLIP score of the samples; None for none.
        clip_protocol: a protocol of the literature by which a model that continues context frames is compared with
            several clips of each video, instead of `samples`; see `ulzoo.evaluation.clip_protocols`.

    Raises:
        ValueError: statistics from a file are combined with distances that need the reference's images.
    """

    features: ImageFeatures | VideoFeatures
    samples: int | None = None
    reference: Source | None = None
    reference_split: str = "train"
    statistics: Path | None = None
    save_statistics: Path | None = None
    save_samples: Path | None = None
    all_distances: bool = False
    clip: ClipNetwork | None = None
    clip_protocol: ClipProtocol | None = None

    def __post_init__(self) -> None:
        if self.statistics and self.all_distances:
            raise ValueError("kernel distance, precision and recall need the reference's images, not their statistics")

    @property
    def reference_name(self) -> str:
        """The file or split that samples are compared with."""
        return self.statistics.name if self.statistics else self.reference_split
