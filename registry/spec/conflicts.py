"""Combinations of keys that are valid alone but not together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ulzoo.model.contract import STAGES, Stage
from ulzoo.registry.spec.sections import (
    DiffusionConfig,
    DiffusionDecoderConfig,
    DiffusionPriorConfig,
    InitConfig,
    NormalPriorConfig,
    SamplingConfig,
)

if TYPE_CHECKING:
    from ulzoo.registry.spec.schema import Spec


def find_conflicts(spec: "Spec") -> Iterator[tuple[str, str]]:
    """(key path, reason and remedy) of each such combination in a spec."""
    prior, decoder, base = spec.prior, spec.decoder, spec.base
    if prior is None and decoder is not None:
        yield "decoder", "without a prior no stage trains it: set it to null, or use final_decoder"
    if prior is not None and decoder is None:
        yield "decoder", "stage 1 trains prior and decoder together: add a decoder, or set prior to null"
    if prior is None and base is None:
        yield "base", "prior and base are both null, so no network samples the latent: add a base"
    if isinstance(prior, NormalPriorConfig) and base is None:
        yield "prior.kind", "single-stage training (base null) samples from the prior, which must be a diffusion model"
    if isinstance(prior, DiffusionPriorConfig) and prior.stop_gradient and prior.normal_kl == 0:
        yield "prior.stop_gradient", "the latent would be unbounded: set prior.normal_kl to a small positive weight"
    if spec.latent.variance == "learned" and prior is None:
        yield "latent.variance", "without a prior the encoder is not trained: set it to fixed"
    if spec.latent.logsnr_bias is not None:
        if base is not None:
            yield "latent.logsnr_bias", "requires single-stage training: set base and train.base to null"
        if decoder is not None and not decoder.latent_logsnr:
            yield (
                "decoder.latent_logsnr",
                "latent_logsnr must be true if latent.logsnr_bias is set, which varies the log-SNR",
            )
    if spec.conditioning.frames and base is None:
        yield "conditioning.frames", "frame prediction needs a base: add one, or set this to 0"
    if spec.init is not None:
        yield from _find_init_conflicts(spec, spec.init)
    yield from _find_distilled_conflicts(spec)
    yield from _find_rate_conflicts(spec)
    parts: dict[Stage, str] = {"latents": "prior", "decoder": "final_decoder", "distill": "distilled", "base": "base"}
    fsdp = spec.train.parallel is not None and spec.train.parallel.kind == "fsdp"
    for stage, part in parts.items():
        configured, needed = getattr(spec.train, stage) is not None, stage in spec.stages
        if needed and not configured:
            yield "train", f"missing key {stage!r}, the training of {part}"
        if configured and not needed:
            names = [f"distilled in place of {x}" if x in spec.replaced_decoders else x for x in STAGES[stage]]
            why = f"init.freeze has {' and '.join(names)}" if stage in spec.frozen_stages else ""
            yield f"train.{stage}", f"{why or f'the spec has no {part} to train'}: set this to null"
        if configured and fsdp and getattr(spec.train, stage).compile == "step":
            yield f"train.{stage}.compile", "FSDP gathers parameters between blocks: set this to true, not step"
    sampled = {"base": base or prior, "decoder": spec.final_decoder or decoder}
    for name, network in sampled.items():
        sampling: SamplingConfig = getattr(spec.sample, name)
        if sampling.guidance != 1 and not (isinstance(network, DiffusionConfig) and network.guidable):
            why = "guidance needs a diffusion model that is class_conditional or text_conditional, with dropout above 0"
            yield f"sample.{name}.guidance", f"{why}; set it to 1"


def _find_distilled_conflicts(spec: "Spec") -> Iterator[tuple[str, str]]:
    if spec.distilled is None:
        return
    if not isinstance(spec.final_decoder or spec.decoder, DiffusionDecoderConfig):
        yield "distilled", "only a diffusion decoder can be distilled: remove this section"
    if spec.sample.decoder.guidance != 1:
        yield "sample.decoder.guidance", "a distilled decoder learns the decoder without guidance: set it to 1"
    training = spec.train.distill
    if training and (training.teacher_steps is None) == (spec.distilled.target == "teacher"):
        remedy = "give the number of its steps that are learned" if training.teacher_steps is None else "leave it out"
        yield "train.distill.teacher_steps", f"distilled.target is {spec.distilled.target}: {remedy}"


def _find_rate_conflicts(spec: "Spec") -> Iterator[tuple[str, str]]:
    """Ranges of loss factor and bias where they cannot be, and ranges of the base that are not within them."""
    ranges = {name: ends for name in ("loss_factor", "bias") if (ends := rate_range(spec, name))}
    if ranges.get("loss_factor", (1.0, 1.0))[0] <= 0:
        yield "decoder.weighting.loss_factor", f"loss_factor must be positive, got {ranges['loss_factor'][0]:g}"
    if ranges and spec.latent.logsnr_bias is not None:
        why = "single-stage training with a random log-SNR has one rate"
        yield f"decoder.weighting.{next(iter(ranges))}", f"{why}: give a number, or remove latent.logsnr_bias"
    for part in ("final_decoder", "base"):
        weighting = getattr(getattr(spec, part), "weighting", None)
        for name in ("loss_factor", "bias"):
            if isinstance(getattr(weighting, name, None), tuple):
                yield f"{part}.weighting.{name}", "only the decoder's moves the rate: give a number"
    for name in ("loss_factor", "bias") if spec.base else ():
        value = getattr(spec.base, name)
        if value is None:
            continue
        low, high = value if isinstance(value, tuple) else (value, value)
        if name not in ranges:
            yield f"base.{name}", f"decoder.weighting.{name} is not a range: remove this key"
        elif not ranges[name][0] <= low <= high <= ranges[name][1]:
            yield f"base.{name}", "must lie within decoder.weighting.{}, {:g} to {:g}".format(name, *ranges[name])
    data = spec.train.base and spec.train.base.data
    for name in ranges if data is not None else ():
        value = spec.base and getattr(spec.base, name)
        if value is None or isinstance(value, tuple):
            yield f"base.{name}", f"latents that were encoded beforehand have one {name}: set base.{name} to a number"


def rate_range(spec: "Spec", name: str) -> tuple[float, float] | None:
    """The range of the decoder's loss factor or bias; None if it does not vary."""
    value = getattr(getattr(spec.decoder, "weighting", None), name, None)
    return value if isinstance(value, tuple) and value[0] < value[1] else None


def _find_init_conflicts(spec: "Spec", init: InitConfig) -> Iterator[tuple[str, str]]:
    for key, networks in {"parts": init.parts or (), "freeze": init.freeze}.items():
        for network in networks:
            if getattr(spec, network) is None:
                yield f"init.{key}", f"the spec has no {network}: leave it out"
    if "distilled" in (init.parts or ()) and "distilled" not in init.freeze:
        yield "init.parts", "the distilled decoder starts from the decoder's weights: leave it out, or freeze it"
    for network in init.freeze:
        if init.parts is not None and network not in init.parts:
            yield "init.freeze", f"{network} is not in init.parts, so its weights would be random: add it there"
    if not spec.stages:
        yield "init.freeze", "all networks are frozen, so that no stage is left to train: leave one out"
