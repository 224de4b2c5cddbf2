"""From YAML to running objects: component tables, the schema of a spec, loading and checking it."""

from typing import Any

_HOMES = {
    "Card": "card",
    "Spec": "schema",
    "SpecError": "yaml_source",
    "Table": "table",
    "cards": "catalogue",
    "create_model": "catalogue",
    "find_specs": "spec",
    "find_sweeps": "spec",
    "json_schema": "schema",
    "list_models": "catalogue",
    "load": "catalogue",
    "load_spec": "spec",
    "load_sweep": "sweep",
    "open_model": "catalogue",
    "quicken": "inference",
    "spec_from_dict": "spec",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
