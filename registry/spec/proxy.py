"""The narrower model whose learning rate a stage uses under µP: the same spec with other widths."""

from typing import Any

from ulzoo.model.contract import STAGES, NetworkName, Stage
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.yaml_source import SpecError


def proxy_spec(spec: Spec, stage: Stage) -> Spec | None:
    """The spec with the backbones of `train.STAGE.parametrisation.proxy`, without µP; None if the stage has no proxy.

    Raises:
        SpecError: there is no such spec, or it differs in networks that the stage does not train.
    """
    parametrisation = getattr(spec.train, stage).parametrisation
    if parametrisation is None:
        return None
    path, content = f"train.{stage}.parametrisation.proxy", spec.to_dict()
    backbones: dict[NetworkName, dict[str, Any]] = {}
    for network in STAGES[stage]:
        section = content[network] or {}
        if network not in spec.frozen and (backbone := section if network == "encoder" else section.get("backbone")):
            backbones[network] = backbone
    for network, keys in parametrisation.proxy.items():
        if network not in backbones:
            raise spec.error(path, f"this stage trains no {network}, only {', '.join(backbones)}")
        backbones[network].update(keys)
    for section in content["train"].values():
        if isinstance(section, dict):
            section.pop("parametrisation", None)
    try:
        return spec_from_dict(content).with_data_paths(spec.data_paths)
    except SpecError as error:
        raise spec.error(path, str(error)) from None
