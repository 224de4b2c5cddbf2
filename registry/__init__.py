"""From YAML to running objects: component tables, the schema of a spec, loading and checking it."""

from typing import Any

_HOMES = {
    "ReleaseManifest": "zoo.release",
    "Spec": "spec.schema",
    "SpecError": "spec.yaml_source",
    "Table": "spec.component_table",
    "cards": "zoo.catalogue",
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
    "spec_from_dict": "spec.loading",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
