"""A decoder of few steps: a student of the diffusion decoder, each of whose steps is a segment of the noise levels.

The paper's decoder takes many steps and is not distilled (§6.1). This is segment regression: progressive distillation
(arXiv 2202.00512) in one pass, on the segments of multistep consistency models (arXiv 2403.06807). With one segment it
is SSDD's regression (arXiv 2510.04961).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ulzoo.diffusion import Noise, expand_like
from ulzoo.diffusion.samplers import ddim
from ulzoo.diffusion.schedules import alpha_sigma, low_discrepancy_times, randn_like
from ulzoo.model.denoisers import DiffusionModel, residual_mean
from ulzoo.nn.conditioning import NO_CONDITIONS, NetworkConditions


class DistilledDecoder(DiffusionModel):
    """The student: the decoder's network, conditioned on the number of steps that it decodes in.

    For k steps, the times [0, 1] are cut into k equal segments. From x_t at the noisy end t of a segment the teacher
    takes n/k deterministic steps to x_s at its other end s, given the same z_0. The student learns the x̂ with which one
    step of DDIM leads from x_t to x_s, so k such steps decode as the teacher does in n.

    Args:
        decoder: the student as a diffusion model, its network compiled for `len(steps)` step counts.
        steps: the numbers of steps that it learns to decode in.
        teacher_steps: n, steps of the teacher through all segments, rounded up to a multiple of each k.
    """

    step_counts: Tensor

    def __init__(self, decoder: DiffusionModel, *, steps: Sequence[int], teacher_steps: int):
        super().__init__(
            decoder.network,
            decoder.diffusion,
            decoder.weighting,
            dropout=decoder.dropout,
            takes_text=decoder.takes_text,
            takes_latent_logsnr=decoder.takes_latent_logsnr,
        )
        self.steps, multiple = tuple(steps), math.lcm(*steps)
        self.teacher_steps = multiple * math.ceil(teacher_steps / multiple)
        self.register_buffer("step_counts", torch.tensor(self.steps), persistent=False)

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
        """‖x̂(x_t) - x*‖² of a random segment for each example, (B,), with x* from `distillation_target`."""
        x, diffusion = x - residual_mean(conditions, x.shape[1]), self.diffusion
        index, start, end = self._segments(len(x), generator, x.device)
        steps = torch.arange(self.teacher_steps // min(self.steps) + 1, device=x.device) / self.teacher_steps
        times = torch.maximum(start - steps[:, None], end)  # (n/min(k) + 1, B); a step of length 0 changes nothing
        logsnrs = diffusion.schedule.logsnr(times)
        noise = randn_like(x, generator)
        x_t = diffusion.add_noise(x, logsnr=logsnrs[0], noise=noise)
        x_t = torch.where(expand_like(start == 1, x), noise, x_t)  # samplers start from pure noise

        def denoise(x_t: Tensor, logsnr: Tensor) -> Tensor:
            prediction = teacher.predict(x_t, logsnr.flatten(), conditions).to(x_t.dtype)
            return diffusion.to_x(prediction, x_t=x_t, logsnr=logsnr)

        with torch.no_grad():
            x_s = ddim(denoise, x_t, logsnrs.reshape(*logsnrs.shape, *[1] * (x.ndim - 1)))
            target = distillation_target(x_t, x_s, logsnr=logsnrs[0], target_logsnr=logsnrs[-1])
        prediction = self.predict(x_t, logsnrs[0], conditions._replace(step_count=index)).to(x_t.dtype)
        x_hat = diffusion.to_x(prediction, x_t=x_t, logsnr=logsnrs[0])
        return (x_hat - target).square().flatten(1).sum(1)

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
