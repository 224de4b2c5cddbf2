"""Rate, distortion, frame prediction and distances between sets of images or clips, each metric with its protocol."""

from ulzoo.evaluation.config import EvaluationConfig, FrechetConfig
from ulzoo.evaluation.evaluate import evaluate, measure
from ulzoo.evaluation.frame_prediction import frame_prediction
from ulzoo.evaluation.image_distances import image_distances
from ulzoo.evaluation.protocol import Protocol, compare
from ulzoo.evaluation.rate_distortion import rate_distortion
from ulzoo.evaluation.video_distances import generation_distance

__all__ = [
    "EvaluationConfig",
    "FrechetConfig",
    "Protocol",
    "compare",
    "evaluate",
    "frame_prediction",
    "generation_distance",
    "image_distances",
    "measure",
    "rate_distortion",
]
