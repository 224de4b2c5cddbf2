"""Early stopping of unpromising points by asynchronous successive halving (ASHA, Li et al. 2020), as in Optuna.

Points are compared by the loss of stage 1 (rate plus weighted distortion) at a ninth and a third of its steps, where
the best third of the points that got there so far continues. Only points whose losses have the same meaning are
compared: same data, decoder weighting and number of steps. A point whose latent has collapsed is stopped in any case.

All processes and machines of a sweep share FOLDER/pruning.journal. Which points are stopped depends on the order in
which they report. A stopped point keeps its last checkpoint.
"""

import json
import math
from hashlib import sha256
from pathlib import Path
from typing import Any

from ulzoo.model.rate import COLLAPSED_BITS_PER_DIMENSION
from ulzoo.registry.sweeps.jobs import Job
from ulzoo.training.monitoring import LogRow

REDUCTION = 3
FIRST_COMPARISON = REDUCTION**2  # at 1/9 of the steps
JOURNAL = "pruning.journal"


class StoppedEarly(Exception):
    """The training of a point is not worth continuing; the message is the reason."""


class Pruner:
    """Receives the rows of a point's metrics.jsonl and raises `StoppedEarly` when the point falls behind others.

    Args:
        job: the point.

    Raises:
        ValueError: Optuna is not installed.
    """

    def __init__(self, job: Job) -> None:
        optuna = import_optuna()
        self.steps = job.spec["train"]["latents"]["steps"]
        latent = job.spec["latent"]
        self.dimensions_per_pixel = latent["channels"] / math.prod(latent["downsample"])
        backend = optuna.storages.journal.JournalFileBackend(str(Path(job.store) / JOURNAL))
        self.trial_states = optuna.trial.TrialState
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            pruner=optuna.pruners.SuccessiveHalvingPruner(max(self.steps // FIRST_COMPARISON, 1), REDUCTION),
            study_name=comparison_key(job.spec),
            direction="minimize",
            load_if_exists=True,
        )
        self.trial = self._open_trial(optuna, job.spec_hash)
        self.last_step = max(self.study.trials[self.trial.number].intermediate_values, default=0)

    def report(self, row: LogRow) -> None:
        """Report a row of stage 1. Raises `StoppedEarly` if training should stop."""
        step = row["step"]
        if step <= self.last_step:  # reported before a restart
            return
        self.last_step = step
        self.trial.report(row["loss"], step)
        bits = row["rate_bits_per_pixel"]
        if step * REDUCTION >= self.steps and bits / self.dimensions_per_pixel < COLLAPSED_BITS_PER_DIMENSION:
            self._stop(f"step {step}: its latent has collapsed, the rate is {bits:.4f} bits/pixel")
        if step < self.steps and self.trial.should_prune():
            others = len(self.study.trials) - 1
            self._stop(f"step {step}: its loss, {row['loss']:.4g}, is behind those of {others} comparable points")
        if step == self.steps:
            self.study.tell(self.trial, row["loss"])

    def _stop(self, reason: str) -> None:
        self.study.tell(self.trial, state=self.trial_states.PRUNED)
        raise StoppedEarly(reason)

    def _open_trial(self, optuna: Any, spec_hash: str) -> Any:
        """The unfinished trial of the point, or a new one."""
        for trial in self.study.get_trials(deepcopy=False, states=(self.trial_states.RUNNING,)):
            if trial.user_attrs.get("spec_hash") == spec_hash:
                return optuna.trial.Trial(self.study, trial._trial_id)
        new = self.study.ask()
        new.set_user_attr("spec_hash", spec_hash)
        return new


def comparison_key(spec: dict[str, Any]) -> str:
    """Equal for specs whose losses of stage 1 are comparable: a hash of everything that defines the loss."""
    train, decoder, prior = spec["train"]["latents"], spec["decoder"] or {}, spec["prior"] or {}
    meaning = {
        "data": [spec["data"], train.get("data")],
        "decoder": {key: decoder.get(key) for key in ("kind", "weighting", "weight")},
        "prior": {key: prior.get(key) for key in ("kind", "weight", "normal_kl")},
        "steps": [train["steps"], train["batch_size"]],
    }
    return sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def import_optuna() -> Any:
    """Import Optuna and silence its log. ValueError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ValueError("--prune needs the package optuna: pip install 'ulzoo[prune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
