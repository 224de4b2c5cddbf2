"""All figures that a model has by itself, without a network to compare with."""

from collections.abc import Callable
from typing import Any

from ulzoo.data import Source
from ulzoo.evaluation.frame_prediction import frame_prediction
from ulzoo.evaluation.protocol import figure_hashes
from ulzoo.evaluation.rate_distortion import rate_distortion
from ulzoo.model import UnifiedLatents


def measure(
    model: UnifiedLatents,
    source: Source,
    *,
    data: dict[str, Any],
    split: str = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    rate_samples: int = 8,
    decoder_steps: int | None = None,
    seed: int = 0,
    decompose: bool = False,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """`rate_distortion` and, of a model that can continue frames, `frame_prediction`, its protocol inside the other's.

    With each figure goes the hash of what it depends on, "hashes": those whose hashes are equal compare.

    Args:
        on_image: told how many images or clips are done, and of how many; each is counted once for either part.
    """
    predicts = model.contract.given_frames > 0 and model.base is not None
    count = min(limit or len(source), len(source))
    total = 2 * count if predicts else count
    told: dict[str, Any] = {"data": data, "split": split, "limit": limit, "batch_size": batch_size, "seed": seed}
    results = rate_distortion(
        model,
        source,
        **told,
        rate_samples=rate_samples,
        decoder_steps=decoder_steps,
        decompose=decompose,
        on_image=lambda done: on_image(done, total),
    )
    if predicts:
        prediction = frame_prediction(model, source, **told, on_image=lambda done: on_image(count + done, total))
        results["figures"] |= prediction["figures"]
        results["protocol"]["frame_prediction"] = prediction["protocol"]
    results["hashes"] = figure_hashes(results)
    return results
