"""The built-in components that a spec can name."""

from typing import Any

from ulzoo.registry.spec.component_table import Table

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


def __getattr__(name: str) -> Any:
    """The derived model `TABLE_KIND`, for pickle."""
    for table in (ENCODERS, BACKBONES, SCHEDULES, WEIGHTINGS, DATASETS):
        kind = name.removeprefix(f"{table.name}_")
        if kind != name and kind in table.kinds():
            return table.config(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
