"""The built-in components that a spec can name."""

from collections.abc import Iterator, Mapping
from typing import Any

from ulzoo.registry.spec.component_table import Table
from ulzoo.runtime.messages import one_line

ENCODERS = Table(
    "encoder",
    {
        "resnet": "ulzoo.nn:ResNetEncoder",
        "vit": "ulzoo.nn:ViTEncoder",
        "identity": "ulzoo.nn:IdentityEncoder",
        "diffusers_autoencoder": "ulzoo.nn:DiffusersAutoencoder",
    },
    module=__name__,
)

BACKBONES = Table(
    "backbone",
    {
        "vit": "ulzoo.nn:ViT",
        "hierarchical_vit": "ulzoo.nn:HierarchicalViT",
        "uvit": "ulzoo.nn:UViT",
    },
    module=__name__,
)

SCHEDULES = Table(
    "schedule",
    {
        "linear": "ulzoo.diffusion:LinearSchedule",
        "cosine": "ulzoo.diffusion:CosineSchedule",
        "shifted_cosine": "ulzoo.diffusion:ShiftedCosineSchedule",
        "interpolated_cosine": "ulzoo.diffusion:InterpolatedCosineSchedule",
        "adaptive": "ulzoo.diffusion:AdaptiveSchedule",
    },
    module=__name__,
)

WEIGHTINGS = Table(
    "weighting",
    {
        "elbo": "ulzoo.diffusion:ElboWeighting",
        "sigmoid": "ulzoo.diffusion:SigmoidWeighting",
    },
    module=__name__,
)

DATASETS = Table(
    "dataset",
    {
        "emoji3d": "ulzoo.data:Emoji3D",
        "emoji3d_video": "ulzoo.data:Emoji3DVideo",
        "image_folder": "ulzoo.data:ImageFolder",
        "image_files": "ulzoo.data:ImageFiles",
        "webdataset": "ulzoo.data:WebDataset",
        "hf_dataset": "ulzoo.data:HFDataset",
        "fashion_mnist": "ulzoo.data:FashionMNIST",
        "video_folder": "ulzoo.data:VideoFolder",
        "video_shards": "ulzoo.data:VideoShards",
        "kinetics600": "ulzoo.data:Kinetics600",
        "atari": "ulzoo.data:Atari",
        "latents": "ulzoo.data:Latents",
    },
    module=__name__,
)


ROLES = {"encoder": ENCODERS, "backbone": BACKBONES, "schedule": SCHEDULES, "weighting": WEIGHTINGS, "data": DATASETS}
"""Keys of a spec -> the table of the components there."""


def find_components(spec: Any) -> Iterator[tuple[Table, str]]:
    """The components that a spec, as plain data that need not be valid, names at any depth."""
    for key, value in spec.items() if isinstance(spec, Mapping) else ():
        if key in ROLES and isinstance(value, Mapping) and isinstance(value.get("kind"), str):
            yield ROLES[key], value["kind"]
        yield from find_components(value)


def find_plugins(spec: Any) -> dict[str, str]:
    """The components of a spec that installed packages add: "encoder 'mine'" -> name and version of the package."""
    components = [(f"{table.name} {kind!r}", table.package(kind)) for table, kind in find_components(spec)]
    return {component: package for component, package in components if package}


def find_unavailable(spec: Any, packages: Any = None) -> str | None:
    """Why a component of a spec cannot be used here, in one line; None if all can.

    Args:
        packages: the result of `find_plugins` where the spec was written, if it is known; data that need not be valid.
    """
    for table, kind in find_components(spec):
        component = f"{table.name} {one_line(repr(kind))}"
        if kind not in table.kinds():
            package = packages.get(f"{table.name} {kind!r}") if isinstance(packages, Mapping) else None
            if isinstance(package, str):
                return f"its {component} is in the package {one_line(package)}, which is not installed here"
            return f"no package that is installed here has its {component}; install the plug-in that adds it"
        try:
            table.get(kind)
        except ValueError as error:
            return f"its {error}"
    return None


def __getattr__(name: str) -> Any:
    """The derived model `TABLE_KIND`, for pickle."""
    for table in (ENCODERS, BACKBONES, SCHEDULES, WEIGHTINGS, DATASETS):
        kind = name.removeprefix(f"{table.name}_")
        if kind != name and kind in table.kinds():
            return table.config(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
