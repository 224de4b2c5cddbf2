"""Early stopping of hopeless points: asynchronous successive halving (ASHA, Li et al. 2020), which is Optuna's.

Points are compared by stage 1's loss, rate and weighted distortion, at a ninth and a third of its steps: the better
third of those that came so far goes on. Only points whose losses mean the same are compared: same data, same decoder
weighting, same steps. A point whose latent has collapsed is stopped whatever the others do.

All processes and machines of a sweep share FOLDER/pruning.journal. Which points are stopped depends on the order in
which they come; what is stopped keeps its last checkpoint.
"""

import json
import math
from hashlib import sha256
from pathlib import Path
from typing import Any

from ulzoo.registry.sweeps.jobs import Job
from ulzoo.training.monitoring import LogRow
from ulzoo.training.trainer import COLLAPSED_BITS_PER_DIMENSION

REDUCTION = 3
FIRST = REDUCTION**2  # the first comparison is at 1/9 of the steps
JOURNAL = "pruning.journal"


class Stopped(Exception):
    """A point is not worth going on with; the message says why."""


class Pruner:
    """Hears a point's rows of metrics and raises `Stopped` when others are ahead of it.

    Args:
        job: the point.

    Raises:
        ValueError: Optuna is not installed.
    """

    def __init__(self, job: Job) -> None:
        optuna = check_pruning()
        self.steps = job.spec["train"]["latents"]["steps"]
        latent = job.spec["latent"]
        self.dimensions_per_pixel = latent["channels"] / math.prod(latent["downsample"])
        backend = optuna.storages.journal.JournalFileBackend(str(Path(job.store) / JOURNAL))
        self.states = optuna.trial.TrialState
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            pruner=optuna.pruners.SuccessiveHalvingPruner(max(self.steps // FIRST, 1), REDUCTION),
            study_name=comparable(job.spec),
            direction="minimize",
            load_if_exists=True,
        )
        self.trial = self._trial(optuna, job.spec_hash)
        self.told = max(self.study.trials[self.trial.number].intermediate_values, default=0)

    def hear(self, row: LogRow) -> None:
        """A row of stage 1. Raises `Stopped` where the point should end."""
        step = row["step"]
        if step <= self.told:  # by the process that was killed
            return
        self.told = step
        self.trial.report(row["loss"], step)
        bits = row["rate_bits_per_pixel"]
        if step * REDUCTION >= self.steps and bits / self.dimensions_per_pixel < COLLAPSED_BITS_PER_DIMENSION:
            self._stop(f"step {step}: its latent has collapsed, the rate is {bits:.4f} bits/pixel")
        if step < self.steps and self.trial.should_prune():
            others = len(self.study.trials) - 1
            self._stop(f"step {step}: its loss, {row['loss']:.4g}, is behind that of the {others} points like it")
        if step == self.steps:
            self.study.tell(self.trial, row["loss"])

    def _stop(self, why: str) -> None:
        self.study.tell(self.trial, state=self.states.PRUNED)
        raise Stopped(why)

    def _trial(self, optuna: Any, spec_hash: str) -> Any:
        """That of the point which was begun and not ended, or a new one."""
        for old in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            if old.user_attrs.get("spec_hash") == spec_hash:
                return optuna.trial.Trial(self.study, old._trial_id)
        trial = self.study.ask()
        trial.set_user_attr("spec_hash", spec_hash)
        return trial


def comparable(spec: dict[str, Any]) -> str:
    """The same for specs whose stage-1 losses can be compared: a hash of all that gives the loss its meaning."""
    train, decoder, prior = spec["train"]["latents"], spec["decoder"] or {}, spec["prior"] or {}
    meaning = {
        "data": [spec["data"], train.get("data")],
        "decoder": {key: decoder.get(key) for key in ("kind", "weighting", "weight")},
        "prior": {key: prior.get(key) for key in ("kind", "weight", "normal_kl")},
        "steps": [train["steps"], train["batch_size"]],
    }
    return sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def check_pruning() -> Any:
    """Optuna, quiet. ValueError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ValueError("--prune needs the package optuna: pip install 'ulzoo[prune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
