"""Rate, distortion, frame prediction, Fréchet distances, pictures and films, each figure with its protocol."""

from ulzoo.evaluation.evaluate import image_distances, measure
from ulzoo.evaluation.frame_prediction import frame_prediction
from ulzoo.evaluation.protocol import Protocol, compare
from ulzoo.evaluation.rate_distortion import rate_distortion
from ulzoo.evaluation.video_distances import generation_distance
from ulzoo.visualization.image_grid import save_grid
from ulzoo.visualization.video import save_contact_sheet, save_film

__all__ = [
    "Protocol",
    "compare",
    "frame_prediction",
    "generation_distance",
    "image_distances",
    "measure",
    "rate_distortion",
    "save_contact_sheet",
    "save_film",
    "save_grid",
]
