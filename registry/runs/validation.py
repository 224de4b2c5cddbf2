"""The evaluation of a trained model on the validation data of its spec, after a training and of averages."""

from typing import Any

from ulzoo.data import Source
from ulzoo.data.subset import spread_out
from ulzoo.evaluation import EvaluationConfig, measure
from ulzoo.evaluation.execution import ProgressCallback
from ulzoo.evaluation.mean_image import MeanImage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.spec.schema import Spec


def validate(
    spec: Spec,
    model: UnifiedLatents,
    validation: Source,
    mean_image: MeanImage | None,
    *,
    limit: int,
    on_progress: ProgressCallback,
) -> dict[str, Any]:
    """Metrics and protocol on `limit` examples that are spread over all, beside those of the mean training image."""
    config = EvaluationConfig(spec.data_identity(), mean_image=mean_image)
    results = measure(model, spread_out(validation, limit), config, on_progress=on_progress)
    return results | ({"mean_image": mean_image.to_dict()} if mean_image else {})
