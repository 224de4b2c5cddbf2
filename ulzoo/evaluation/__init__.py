"""Rate, distortion and pictures, each figure with its protocol."""

from ulzoo.evaluation.pictures import save_grid
from ulzoo.evaluation.rate_distortion import Protocol, rate_distortion

__all__ = ["Protocol", "rate_distortion", "save_grid"]
