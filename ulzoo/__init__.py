"""ulzoo: a declarative model zoo for Unified Latents. Its public names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ulzoo.version import __version__

if TYPE_CHECKING:
    from ulzoo.data.images.preprocess import preprocess, to_pil
    from ulzoo.model.unified_latents import UnifiedLatents
    from ulzoo.registry import create_model, list_models, load, load_spec
    from ulzoo.registry.zoo.pretrained import from_pretrained, push_to_hub, save_pretrained

__all__ = [
    "UnifiedLatents",
    "__version__",
    "create_model",
    "from_pretrained",
    "list_models",
    "load",
    "load_spec",
    "preprocess",
    "push_to_hub",
    "save_pretrained",
    "to_pil",
]

_MODULES = {
    "UnifiedLatents": "ulzoo.model.unified_latents",
    "create_model": "ulzoo.registry",
    "from_pretrained": "ulzoo.registry.zoo.pretrained",
    "list_models": "ulzoo.registry",
    "load": "ulzoo.registry",
    "load_spec": "ulzoo.registry",
    "preprocess": "ulzoo.data.images.preprocess",
    "push_to_hub": "ulzoo.registry.zoo.pretrained",
    "save_pretrained": "ulzoo.registry.zoo.pretrained",
    "to_pil": "ulzoo.data.images.preprocess",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ulzoo' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
