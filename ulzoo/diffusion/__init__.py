"""The mathematics of one noise process: schedules, parametrisations, weightings, losses, samplers. No networks."""

from ulzoo.diffusion.gaussian import Denoiser, GaussianDiffusion, low_discrepancy_times, normal_kl
from ulzoo.diffusion.guidance import Guidance
from ulzoo.diffusion.noise import ExampleNoise, Noise, expand_like, rand, randn_like
from ulzoo.diffusion.random_logsnr import TruncatedLogistic
from ulzoo.diffusion.samplers import SAMPLERS
from ulzoo.diffusion.schedules import (
    CosineSchedule,
    InterpolatedCosineSchedule,
    LinearSchedule,
    Schedule,
    ShiftedCosineSchedule,
    time_of,
)
from ulzoo.diffusion.weightings import ElboWeighting, SigmoidWeighting, Weighting

__all__ = [
    "SAMPLERS",
    "CosineSchedule",
    "Denoiser",
    "ElboWeighting",
    "ExampleNoise",
    "GaussianDiffusion",
    "Guidance",
    "InterpolatedCosineSchedule",
    "LinearSchedule",
    "Noise",
    "Schedule",
    "ShiftedCosineSchedule",
    "SigmoidWeighting",
    "TruncatedLogistic",
    "Weighting",
    "expand_like",
    "low_discrepancy_times",
    "normal_kl",
    "rand",
    "randn_like",
    "time_of",
]
