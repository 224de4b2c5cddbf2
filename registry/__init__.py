"""Specs, and what is made of them: models, runs, costs, the zoo, sweeps and reports."""

from typing import Any

_MODULES = {
    "ReleaseManifest": "zoo.release",
    "Spec": "spec.schema",
    "SpecError": "spec.yaml_source",
    "Table": "spec.component_table",
    "create_model": "zoo.catalogue",
    "find_specs": "spec.loading",
    "find_sweeps": "spec.loading",
    "json_schema": "spec.schema",
    "list_models": "zoo.catalogue",
    "load": "zoo.catalogue",
    "load_spec": "zoo.catalogue",
    "load_sweep": "spec.sweep",
    "open_model": "zoo.catalogue",
    "optimize_for_inference": "runs.inference",
    "releases": "zoo.catalogue",
    "spec_from_dict": "spec.loading",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
