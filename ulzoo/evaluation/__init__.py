"""Rate, distortion, frame prediction, Fréchet distances, pictures and films, each figure with its protocol."""

from ulzoo.evaluation.films import save_contact_sheet, save_film
from ulzoo.evaluation.frame_prediction import frame_prediction
from ulzoo.evaluation.generation import generation_distance
from ulzoo.evaluation.measure import image_distances, measure
from ulzoo.evaluation.pictures import save_grid
from ulzoo.evaluation.protocol import Protocol, compare
from ulzoo.evaluation.rate_distortion import rate_distortion

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
