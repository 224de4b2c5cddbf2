"""The spec that distils the decoder of a trained model: a run whose only stage is `distill`."""

import os
from collections.abc import Iterable
from typing import Any

from ulzoo.model.contract import NETWORKS, STAGES, Stage
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.runs.export import Export
from ulzoo.registry.spec.loading import spec_from_source
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.yaml_source import dump_yaml, list_overrides, parse_overrides, parse_yaml
from ulzoo.registry.zoo.catalogue import load_spec
from ulzoo.training.config import StageConfig

SHARE = 0.15
"""Of the FLOPs of the training that the decoder comes from: how long it is distilled, if no spec says it."""
KEPT = (
    "batch_size",
    "optimizer",
    "lr",
    "weight_decay",
    "betas",
    "grad_clip",
    "precision",
    "workers",
    "compile",
    "seed",
)
"""The settings of that training that are kept."""


def distillation_spec(
    name_or_path: str | os.PathLike[str], source: Export, model: str, overrides: Iterable[str] = ()
) -> Spec:
    """The spec of a distillation: all networks but the distilled decoder are those of a trained model, frozen.

    Args:
        name_or_path: the spec of the networks. Its sections `distilled` and `train.distill` are used if it has them.
        source, model: the trained model, and its name for the spec's `init`.
        overrides: "key.path=value", as `--set`.

    Raises:
        SpecError: the spec is invalid, or the model's decoder cannot be distilled.
    """
    settings = list_overrides(overrides)
    own = [text for text in settings if text.lstrip().startswith(("distilled", "train.distill"))]
    spec = load_spec(name_or_path, [text for text in settings if text not in own])
    if source.model.teacher is None:
        raise spec.error("init.model", f"{model} contains no decoder that could be distilled")
    content = spec.to_dict()
    frozen = [name for name in NETWORKS if name != "distilled" and getattr(source.model, name) is not None]
    for stage, networks in STAGES.items():
        if stage != "distill" and networks[-1] not in frozen:
            content[networks[-1]] = None
    content |= {"name": f"{spec.name}-distilled", "init": {"model": model, "freeze": frozen}}
    content.setdefault("distilled", {})
    content["train"] |= {stage: None for stage in STAGES if stage != "distill"}

    def with_training(settings: dict[str, Any]) -> Spec:
        training = content["train"].get("distill", settings)
        changed = content | {"train": content["train"] | {"distill": training}}
        node = parse_yaml(dump_yaml(changed), f"the distillation of {model}", lines=False)
        return spec_from_source(node, parse_overrides(own)).with_data_paths(spec.data_paths)

    if content["train"].get("distill"):
        return with_training({})
    stage = teaching_stage(source.spec)
    teaching: StageConfig | None = getattr(source.spec.train, stage)
    if teaching is None:
        raise spec.error("train.distill", f"{model} does not say how its decoder was trained: add this section")
    kept = teaching.model_dump(mode="json", include=set(KEPT))
    flops = SHARE * training_flops(source.spec, stage)
    steps = max(1, int(flops / training_flops(with_training(kept | {"steps": 1}), "distill")))
    schedule = {"steps": steps, "warmup_steps": steps // 20, "ema": 1 - 1 / max(10, steps / 10)}
    return with_training(kept | schedule)


def teaching_stage(spec: Spec) -> Stage:
    """The stage that trains the decoder which is distilled."""
    return "latents" if spec.final_decoder is None else "decoder"


def training_flops(spec: Spec, stage: Stage) -> float:
    """The FLOPs of a stage's training."""
    config: StageConfig = getattr(spec.train, stage)
    return config.steps * config.batch_size * summarize(spec).training_flops(stage)
