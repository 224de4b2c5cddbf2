"""The mathematics of one noise process: schedules, parametrisations, weightings, losses, samplers. No networks."""

from ulzoo.diffusion.adaptive import AdaptiveSchedule
from ulzoo.diffusion.gaussian import Denoiser, GaussianDiffusion, normal_kl
from ulzoo.diffusion.noise import (
    ExampleNoise,
    IndependentNoise,
    Noise,
    derive_seeds,
    independent_noise,
    independent_randn_like,
    low_discrepancy_times,
    rand,
    randn,
    randn_like,
    spread_evenly,
)
from ulzoo.diffusion.samplers import SAMPLERS, Guidance
from ulzoo.diffusion.schedules import (
    CosineSchedule,
    InterpolatedCosineSchedule,
    LinearSchedule,
    Schedule,
    ShiftedCosineSchedule,
    expand_like,
    time_of,
)
from ulzoo.diffusion.weightings import ElboWeighting, SigmoidWeighting, TruncatedLogistic, Weighting

__all__ = [
    "SAMPLERS",
    "AdaptiveSchedule",
    "CosineSchedule",
    "Denoiser",
    "ElboWeighting",
    "ExampleNoise",
    "GaussianDiffusion",
    "Guidance",
    "IndependentNoise",
    "InterpolatedCosineSchedule",
    "LinearSchedule",
    "Noise",
    "Schedule",
    "ShiftedCosineSchedule",
    "SigmoidWeighting",
    "TruncatedLogistic",
    "Weighting",
    "derive_seeds",
    "expand_like",
    "independent_noise",
    "independent_randn_like",
    "low_discrepancy_times",
    "normal_kl",
    "rand",
    "randn",
    "randn_like",
    "spread_evenly",
    "time_of",
]
