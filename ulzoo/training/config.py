"""Training of one stage: the keys of `train.latents`, `train.decoder` and `train.base` in a spec."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ulzoo.model.contract import NetworkName

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
RelativeLength = Annotated[float, Field(ge=0.01, le=0.25)]

MUP_OPTIMIZERS = ("adamw", "nadamw", "lion", "muon")
"""Optimizers for which µP's rules are implemented: their updates do not scale with the gradient, nor their decay."""


class ParallelConfig(BaseModel):
    """Training on several processes, which torchrun starts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="ddp: each process has the whole model; fsdp: a shard of every tensor"
    )
    checkpoint_activations: bool = Field(
        default=False, description="recompute every block in the backward pass, to save memory"
    )
    timeout_minutes: float = Field(default=10.0, gt=0, description="how long to wait for another process within a step")


class PosthocEmaConfig(BaseModel):
    """Averages of the weights from which `ulzoo ema` synthesises one of any length after training (EDM2)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lengths: tuple[RelativeLength, RelativeLength] = Field(
        default=(0.05, 0.10), description="lengths of the tracked averages, σ_rel: fractions of the training so far"
    )
    snapshot_every: PositiveInt = Field(
        description="steps between snapshots of the averages, which are never deleted; one is of the last step"
    )

    @field_validator("lengths")
    @classmethod
    def _check_lengths(cls, lengths: tuple[float, float]) -> tuple[float, float]:
        if lengths[0] >= lengths[1]:
            raise ValueError("the second length must exceed the first")
        return lengths


class MupConfig(BaseModel):
    """Learning rates and initial weights by µP (arXiv 2203.03466): lr is that of a narrower model, the proxy."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["mup"] = Field(description="mup: the maximal update parametrisation")
    proxy: dict[NetworkName, dict[str, Any]] = Field(
        min_length=1,
        description="keys of the backbones in which the model that lr was tuned on differs, by network; "
        "base: {width: 96, heads: 2}, for instance",
    )


class StageConfig(BaseModel):
    """Training of one stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: PositiveInt = Field(description="optimizer steps")
    batch_size: PositiveInt = Field(description="images per step, over all devices and accumulated parts")
    lr: float = Field(gt=0, description="peak learning rate")
    warmup_steps: Count = Field(
        default=0, description="steps over which the learning rate rises to lr; a shorter run ends below it"
    )
    decay: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="learning rate after warm-up")
    optimizer: str = Field(default="adamw", description="a name of timm.optim.list_optimizers()")
    parametrisation: MupConfig | None = Field(
        default=None, description="how lr depends on widths; null: not at all, the standard parametrisation"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay, on matrices only")
    betas: tuple[Fraction, Fraction] = Field(default=(0.9, 0.99), description="the optimizer's moment decay rates")
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(
        default=1.0, description="largest gradient norm; null: no limit"
    )
    accumulate: PositiveInt = Field(default=1, description="number of parts that a batch is split into, to save memory")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16: autocast the networks to bfloat16, where the device has it"
    )
    ema: Fraction = Field(default=0.9999, description="decay of the exponential moving average of the weights")
    posthoc_ema: PosthocEmaConfig | None = Field(
        default=None, description="further averages, for `ulzoo ema`: their length is chosen after training; null: none"
    )
    checkpoint_every: PositiveInt = Field(default=1000, description="steps between checkpoints")
    milestone_every: PositiveInt | None = Field(
        default=None, description="steps between checkpoints that are never deleted; null: only the last two are kept"
    )
    log_every: PositiveInt = Field(default=50, description="steps between rows of metrics.jsonl")
    seed: Count = Field(default=0, description="seed of initialisation, data order and noise")
    compile: bool | Literal["step"] = Field(
        default=False,
        description="torch.compile: true compiles block by block; step the loss of a step as one graph, which takes "
        "minutes to compile",
    )
    workers: Count = Field(default=0, description="processes that load data; 0 loads in the training process")

    @field_validator("optimizer")
    @classmethod
    def _check_optimizer(cls, name: str) -> str:
        if name in MUP_OPTIMIZERS:
            return name
        from timm.optim import list_optimizers  # takes seconds

        if name not in (names := list_optimizers()):
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see timm.optim.list_optimizers()"
            raise ValueError(f"unknown optimizer {name!r}; {hint}")
        return name

    @field_validator("parametrisation")
    @classmethod
    def _check_parametrisation(cls, mup: MupConfig | None, info: ValidationInfo) -> MupConfig | None:
        if mup and (optimizer := info.data.get("optimizer")) and optimizer not in MUP_OPTIMIZERS:
            raise ValueError(f"mup has no rules for {optimizer}; use one of {', '.join(MUP_OPTIMIZERS)}")
        return mup

    @field_validator("milestone_every")
    @classmethod
    def _check_milestones(cls, every: int | None, info: ValidationInfo) -> int | None:
        if every and (saved := info.data.get("checkpoint_every")) and every % saved:
            raise ValueError(f"must be a multiple of checkpoint_every, {saved}")
        return every

    @field_validator("accumulate")
    @classmethod
    def _check_accumulate(cls, parts: int, info: ValidationInfo) -> int:
        if (batch_size := info.data.get("batch_size")) and batch_size % parts:
            raise ValueError(f"{parts} does not divide batch_size {batch_size}")
        return parts


class DistillStageConfig(StageConfig):
    """Training of the distilled decoder."""

    teacher_steps: PositiveInt | None = Field(
        default=None,
        description="steps of the decoder that are learned, if they are distilled.target; rounded up to a multiple of "
        "distilled.steps",
    )


class LatentsStageConfig(StageConfig):
    """Training of stage 1: encoder, prior and decoder."""

    prior_warmup_steps: Count = Field(
        default=0,
        description="steps over which the prior's gradient to the encoder rises to 1; 0 as in the paper",
    )
