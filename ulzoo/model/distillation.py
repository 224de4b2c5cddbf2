"""A decoder of few steps: a student of the diffusion decoder, each of whose steps is a segment of the noise levels.

The paper's decoder takes many steps and is not distilled (§6.1). The student learns x itself, at the few noise levels
that it decodes from, or the teacher's steps. The latter is segment regression: progressive distillation (arXiv
2202.00512) in one pass, on the segments of multistep consistency models (arXiv 2403.06807). With one segment it is
SSDD's regression (arXiv 2510.04961).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ulzoo.diffusion import Noise, expand_like
from ulzoo.diffusion.noise import low_discrepancy_times, randn_like
from ulzoo.diffusion.samplers import ddim
from ulzoo.diffusion.schedules import alpha_sigma
from ulzoo.model.contract import DistilledTarget
from ulzoo.model.denoisers import DiffusionModel, residual_mean
from ulzoo.nn.conditioning import NO_CONDITIONS, NetworkConditions


class DistilledDecoder(DiffusionModel):
    """The student: the decoder's network, conditioned on the number of steps that it decodes in.

    For k steps, the times [0, 1] are cut into k equal segments, and the student is trained at their noisy ends t alone.

    - data: it learns E[x | x_t, z_0], as the decoder does at all t. It decodes by k steps of DDPM, which sample x if
      one Gaussian per step describes what is left open.
    - teacher: from x_t the teacher takes n/k deterministic steps to x_s at the segment's other end s, given the same
      z_0. The student learns the x̂ with which one step of DDIM leads from x_t to x_s, so that k such steps decode as
      the teacher does in n.

    Args:
        decoder: the student as a diffusion model, its network compiled for `len(steps)` step counts.
        steps: the numbers of steps that it learns to decode in.
        target: what it learns.
        teacher_steps: n, steps of the teacher through all segments, rounded up to a multiple of each k; 0 if the target
            is the data, or it is not trained.
    """

    step_counts: Tensor

    def __init__(
        self, decoder: DiffusionModel, *, steps: Sequence[int], target: DistilledTarget = "data", teacher_steps: int = 0
    ):
        super().__init__(
            decoder.network,
            decoder.diffusion,
            decoder.weighting,
            dropout=decoder.dropout,
            takes_text=decoder.takes_text,
            takes_latent_logsnr=decoder.takes_latent_logsnr,
        )
        self.steps, self.target, multiple = tuple(steps), target, math.lcm(*steps)
        self.teacher_steps = multiple * math.ceil(teacher_steps / multiple)
        self.register_buffer("step_counts", torch.tensor(self.steps), persistent=False)

    @property
    def sampler(self) -> str:
        """The sampler whose steps it is trained for."""
        return "ddpm" if self.target == "data" else "ddim"

    def start_from(self, teacher: DiffusionModel) -> None:
        """Copy the teacher's weights. The embedding of the step count stays zero, so the student is the teacher."""
        missing, unexpected = self.network.load_state_dict(teacher.network.state_dict(), strict=False)
        assert not unexpected and all(".step_count." in f".{name}" for name in missing), (missing, unexpected)

    def for_steps(self, conditions: NetworkConditions, steps: int, n: int) -> NetworkConditions:
        """The conditions of n examples that are decoded in a number of steps."""
        index = torch.full((n,), self.steps.index(steps), device=self.step_counts.device)
        return conditions._replace(step_count=index)

    def regression_loss(
        self,
        teacher: DiffusionModel,
        x: Tensor,
        *,
        conditions: NetworkConditions = NO_CONDITIONS,
        generator: Noise | None = None,
    ) -> Tensor:
        """A squared error at the noisy end of a random segment for each example, (B,).

        It is that of v, ‖x̂(x_t) - x‖²/σ_t², if the target is the data, else ‖x̂(x_t) - x*‖² with x* from
        `distillation_target`.
        """
        x, diffusion = x - residual_mean(conditions, x.shape[1]), self.diffusion
        index, start, end = self._segments(len(x), generator, x.device)
        logsnr = diffusion.schedule.logsnr(start)
        noise = randn_like(x, generator)
        x_t = diffusion.add_noise(x, logsnr=logsnr, noise=noise)
        x_t = torch.where(expand_like(start == 1, x), noise, x_t)  # samplers start from pure noise
        target = x if self.target == "data" else self._teacher_target(teacher, x_t, (start, end), conditions)
        prediction = self.predict(x_t, logsnr, conditions._replace(step_count=index)).to(x_t.dtype)
        x_hat = diffusion.to_x(prediction, x_t=x_t, logsnr=logsnr)
        error = (x_hat - target).square().flatten(1).sum(1)
        return error * (1 + logsnr.exp()) if self.target == "data" else error  # 1/σ² = 1 + e^λ

    @torch.no_grad()
    def _teacher_target(
        self, teacher: DiffusionModel, x_t: Tensor, segment: tuple[Tensor, Tensor], conditions: NetworkConditions
    ) -> Tensor:
        """x* at x_t, (B, ...), if the teacher takes steps of DDIM from start to end of a segment, (B,) each."""
        start, end = segment
        steps = torch.arange(self.teacher_steps // min(self.steps) + 1, device=x_t.device) / self.teacher_steps
        times = torch.maximum(start - steps[:, None], end)  # (n/min(k) + 1, B); a step of length 0 changes nothing
        logsnrs = self.diffusion.schedule.logsnr(times)

        def denoise(x_t: Tensor, logsnr: Tensor) -> Tensor:
            prediction = teacher.predict(x_t, logsnr.flatten(), conditions).to(x_t.dtype)
            return self.diffusion.to_x(prediction, x_t=x_t, logsnr=logsnr)

        x_s = ddim(denoise, x_t, logsnrs.reshape(*logsnrs.shape, *[1] * (x_t.ndim - 1)))
        return distillation_target(x_t, x_s, logsnr=logsnrs[0], target_logsnr=logsnrs[-1])

    def _segments(self, n: int, generator: Noise | None, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """A step count by its index, and the times at the noisy and the clean end of one of its segments, (n,) each."""
        position = low_discrepancy_times(n, generator, device) * len(self.steps)
        index = position.long()
        count = self.step_counts[index]
        segment = ((position - index) * count).floor()
        return index, (segment + 1) / count, segment / count


def distillation_target(x_t: Tensor, x_s: Tensor, *, logsnr: Tensor, target_logsnr: Tensor) -> Tensor:
    """The x̂ with which one step of DDIM leads from x_t to x_s: (x_s - r x_t) / (α_s - r α_t) with r = σ_s/σ_t.

    Args:
        x_t, x_s: (B, ...).
        logsnr, target_logsnr: those of x_t and of x_s, (B,), the second one higher.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (alpha_sigma(expand_like(level, x_t)) for level in (logsnr, target_logsnr))
    ratio = sigma_s / sigma_t
    return (x_s - ratio * x_t) / (alpha_s - ratio * alpha_t)
