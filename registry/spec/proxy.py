"""The narrower model whose learning rate a stage uses under µP: the same spec with other widths."""

from collections.abc import Mapping
from typing import Any

from ulzoo.model.contract import STAGES, Stage
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.yaml_source import SpecError


def proxy_spec(spec: Spec, stage: Stage) -> Spec | None:
    """The spec with the keys of `train.STAGE.parametrisation.proxy`, without µP; None if the stage has no proxy.

    Raises:
        SpecError: there is no such spec, or it differs in networks that the stage does not train.
    """
    parametrisation = getattr(spec.train, stage).parametrisation
    if parametrisation is None:
        return None
    path = f"train.{stage}.parametrisation.proxy"
    for network in parametrisation.proxy:
        if network not in STAGES[stage]:
            raise spec.error(path, f"this stage does not train {network}, only {', '.join(STAGES[stage])}")
    content = spec.to_dict()
    for section in content["train"].values():
        if isinstance(section, dict):
            section.pop("parametrisation", None)
    try:
        return spec_from_dict(_merge(content, parametrisation.proxy)).with_data_paths(spec.data_paths)
    except SpecError as error:
        raise spec.error(path, str(error)) from None


def _merge(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """`child` over `parent`, mappings key by key."""
    merged = dict(parent)
    for key, value in child.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged
