"""Grids of images, contact sheets and videos, samples and reconstructions of models side by side, plots of the rate."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ulzoo.visualization.image_grid import save_grid
    from ulzoo.visualization.image_samples import SampleRequest, reconstruction_rows, sample_rows
    from ulzoo.visualization.rate_distortion_plot import save_rate_distortion_plot
    from ulzoo.visualization.rate_plot import check_rate_plot, save_rate_plot
    from ulzoo.visualization.video import Clips, save_contact_sheet, save_video
    from ulzoo.visualization.video_samples import reconstructed_clips, sampled_clips, save_clips

__all__ = [
    "Clips",
    "SampleRequest",
    "check_rate_plot",
    "reconstructed_clips",
    "reconstruction_rows",
    "sample_rows",
    "sampled_clips",
    "save_clips",
    "save_contact_sheet",
    "save_grid",
    "save_rate_distortion_plot",
    "save_rate_plot",
    "save_video",
]

_MODULES = {
    "Clips": "video",
    "SampleRequest": "image_samples",
    "check_rate_plot": "rate_plot",
    "reconstructed_clips": "video_samples",
    "reconstruction_rows": "image_samples",
    "sample_rows": "image_samples",
    "sampled_clips": "video_samples",
    "save_clips": "video_samples",
    "save_contact_sheet": "video",
    "save_grid": "image_grid",
    "save_rate_distortion_plot": "rate_distortion_plot",
    "save_rate_plot": "rate_plot",
    "save_video": "video",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ulzoo.visualization' has no attribute {name!r}")
    return getattr(import_module(f"ulzoo.visualization.{_MODULES[name]}"), name)
