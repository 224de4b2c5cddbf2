"""The keys of a stage: what is refused and how."""

import pytest
from pydantic import ValidationError

from ulzoo.training.config import LatentsStageConfig, StageConfig

GOOD = {"steps": 10, "batch_size": 8, "lr": 1e-3}
MUP = {"kind": "mup", "proxy": {"decoder": {"width": 8}}}


def message(**keys) -> str:
    with pytest.raises(ValidationError) as error:
        LatentsStageConfig(**{**GOOD, **keys})
    (problem,) = error.value.errors()
    return f"{problem['loc'][0]}: {problem['msg']}"


def test_defaults_are_the_papers_or_harmless():
    stage = LatentsStageConfig(**GOOD)
    assert (stage.ema, stage.precision, stage.optimizer, stage.accumulate) == (0.9999, "fp32", "adamw", 1)
    assert stage.prior_warmup_steps == 0


@pytest.mark.parametrize(
    "keys, expected",
    [
        ({"optimizer": "adamv"}, "optimizer: Value error, unknown optimizer 'adamv'; did you mean 'adam"),
        ({"optimizer": "zzz"}, "see timm.optim.list_optimizers()"),
        ({"accumulate": 3}, "accumulate: Value error, 3 does not divide batch_size 8"),
        ({"steps": 0}, "steps: "),
        ({"lr": 0}, "lr: "),
        ({"lr": float("inf")}, "lr: "),
        ({"ema": 1}, "ema: "),
        ({"betas": (0.9, 1.0)}, "betas: "),
        ({"grad_clip": 0}, "grad_clip: "),
        ({"precision": "fp16"}, "precision: "),
        ({"decay": "step"}, "decay: "),
        ({"warmup_steps": -1}, "warmup_steps: "),
        ({"stepz": 1}, "stepz: "),
        ({"posthoc_ema": {"snapshot_every": 5, "lengths": (0.1, 0.05)}}, "the second length must exceed the first"),
        ({"posthoc_ema": {"snapshot_every": 5, "lengths": (0.05, 0.3)}}, "posthoc_ema: "),
        (
            {"optimizer": "sgd", "parametrisation": MUP},
            "mup has no rules for sgd; use one of adamw, nadamw",
        ),
        ({"parametrisation": {**MUP, "proxy": {"unet": {"width": 8}}}}, "parametrisation: "),
    ],
    ids=str,
)
def test_refused(keys, expected):
    assert expected in message(**keys)


def test_only_the_first_stage_warms_up_a_prior():
    with pytest.raises(ValidationError):
        StageConfig(**GOOD, prior_warmup_steps=1)
