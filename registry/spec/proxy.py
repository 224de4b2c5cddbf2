"""The narrower model whose learning rate a stage uses under µP: the same spec with other widths."""

from ulzoo.model.contract import STAGES, Stage
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
    sections = {name: content[name] for name in STAGES[stage] if content[name] and name not in spec.frozen}
    backbones = {name: section if name == "encoder" else section.get("backbone") for name, section in sections.items()}
    for network, keys in parametrisation.proxy.items():
        if not backbones.get(network):
            raise spec.error(
                path, f"this stage trains no {network}, only {', '.join(filter(backbones.get, backbones))}"
            )
        backbones[network].update(keys)
    for section in content["train"].values():
        if isinstance(section, dict):
            section.pop("parametrisation", None)
    try:
        return spec_from_dict(content).with_data_paths(spec.data_paths)
    except SpecError as error:
        raise spec.error(path, str(error)) from None
