"""ulzoo: a declarative model zoo for Unified Latents. Its doors import what they need when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ulzoo.version import __version__

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents
    from ulzoo.registry import create_model, list_models, load, load_spec

__all__ = ["UnifiedLatents", "__version__", "create_model", "list_models", "load", "load_spec"]

_DOORS = {
    "UnifiedLatents": "ulzoo.model.unified_latents",
    "create_model": "ulzoo.registry",
    "list_models": "ulzoo.registry",
    "load": "ulzoo.registry",
    "load_spec": "ulzoo.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'ulzoo' has no attribute {name!r}")
    return getattr(import_module(_DOORS[name]), name)
