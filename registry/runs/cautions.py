"""What a run is warned of: a warm-up longer than its stage, a collapsed latent; the mean image to compare it with."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ulzoo.data import Source
from ulzoo.evaluation.mean_image import MeanImage
from ulzoo.model.contract import Stage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import open_source
from ulzoo.registry.spec.schema import Spec
from ulzoo.training.monitoring import collapse_caution, read_rows

WARMUPS = {"warmup_steps": "the learning rate", "prior_warmup_steps": "the prior's gradient to the encoder"}


class SpecCaution(NamedTuple):
    """A key of a spec that is valid and cannot have the effect it is for."""

    path: str
    message: str


def warmup_cautions(spec: Spec, stages: Iterable[Stage]) -> Iterator[SpecCaution]:
    """The warm-ups of these stages that training ends within."""
    for stage in stages:
        if (config := getattr(spec.train, stage)) is None:  # frozen
            continue
        for key, quantity in WARMUPS.items():
            warmup = getattr(config, key, 0)
            if warmup > config.steps:
                yield SpecCaution(
                    f"train.{stage}.{key}",
                    f"{warmup} is more than train.{stage}.steps, {config.steps}: {quantity} ends at "
                    f"{config.steps / warmup:.0%} of its value; lower it, or train longer",
                )


def mean_training_image(spec: Spec, source: Source | None = None) -> MeanImage | None:
    """The mean of training images of the spec's data; None, with a warning, if they cannot be read.

    Args:
        spec: the spec.
        source: its training data, if that is open.
    """
    try:
        return MeanImage.of(source or open_source(spec, "train"))
    except (ValueError, OSError) as error:
        warnings.warn(f"no PSNR of the mean training image: {error}", stacklevel=2)
        return None


def run_cautions(spec: Spec, stages: Iterable[Stage], model: UnifiedLatents, folder: Path) -> list[str]:
    """The cautions about a run in `folder` that has trained `stages`, besides those about its metrics."""
    lines = [f"{path}: {message}" for path, message in warmup_cautions(spec, stages)]
    rates = [row["rate_bits_per_pixel"] for row in read_rows(folder / "metrics.jsonl") if row["stage"] == "latents"]
    if rates and (caution := collapse_caution(model, rates[-1])):
        lines.append(f"at the end of training {caution}")
    return lines
