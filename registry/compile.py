"""From a spec to its model and data. Sizes are derived here, once; constructors' errors get a file and line."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from inspect import signature
from typing import cast

import torch
from torch import nn

from ulzoo.data.source import DataContract, Source
from ulzoo.diffusion import GaussianDiffusion, TruncatedLogistic
from ulzoo.model.contract import Contract, Sampling, Stage
from ulzoo.model.denoisers import ConditionDropout, DiffusionModel, RegressionDecoder
from ulzoo.model.distillation import DistilledDecoder
from ulzoo.model.rate import DiffusionPrior, NormalPrior
from ulzoo.model.rate_control import STEPS, RateControl
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn import DenoiserInputs
from ulzoo.nn.bounds import bounded
from ulzoo.nn.conditioning import RateGain
from ulzoo.nn.grid import divide
from ulzoo.nn.skeleton import WithoutValues
from ulzoo.registry.spec import sections
from ulzoo.registry.spec.component_table import ComponentConfig
from ulzoo.registry.spec.components import BACKBONES, DATASETS, ENCODERS, SCHEDULES, WEIGHTINGS
from ulzoo.registry.spec.conflicts import rate_range
from ulzoo.registry.spec.proxy import proxy_spec
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.sections import DiffusionConfig, NetworkConfig
from ulzoo.registry.spec.yaml_source import SpecError
from ulzoo.runtime.messages import list_texts
from ulzoo.runtime.seeds import derive_seed
from ulzoo.training.parametrisation import scale_initial_weights, trained_networks


def data_contract(spec: Spec, stage: Stage | None = None) -> DataContract:
    """The shapes and labels of the spec's data (of `stage`, if it has its own), without reading any."""
    config, path = stage_data(spec, stage)
    with _located(spec, path):
        source = cast(type[Source], DATASETS.get(config.kind))
        return source.describe(**config.model_dump(exclude={"kind"}))


def stage_data(spec: Spec, stage: Stage | None) -> tuple[ComponentConfig, str]:
    """The data section that a stage is trained on, located on this machine, and its key path."""
    data = getattr(getattr(spec.train, stage), "data", None) if stage else None
    path = "data" if data is None else f"train.{stage}.data"
    return spec.locate_data(spec.data if data is None else data, path), path


def open_source(spec: Spec, split: str, stage: Stage | None = None) -> Source:
    """Open a split of the spec's data, or of the data that `stage` is trained on.

    Raises:
        SpecError: the data is missing or damaged.
    """
    config, path = stage_data(spec, stage)
    try:
        return DATASETS.build(config, split)
    except ValueError as error:
        raise spec.error(path, str(error)) from None


def compile_model(spec: Spec, device: torch.device | str | None = None, pretrained: bool = True) -> UnifiedLatents:
    """Build the networks with fresh weights, seeded by the first stage's `seed`, in eval mode.

    Args:
        device: PyTorch's default device if None; on "meta" a model is checked and measured without memory.
        pretrained: read the weights of an encoder that comes with some; False if all weights are loaded afterwards.

    Raises:
        SpecError: parts that do not fit, with the key at fault.
    """
    data = data_contract(spec)
    size, latent = data.size, spec.latent
    _check_other_data(spec, data)
    with _located(spec, "latent.downsample"):
        latent_size = divide(size, latent.downsample, "latent.downsample")
    context_frames = _context_frames(spec, data)
    controls = _rate_controls(spec)
    z = DenoiserInputs(latent_size, latent.channels, rate_controls=len(controls))
    z_given = replace(z, frame_channels=latent.channels + 1 if context_frames else 0)
    x = replace(
        z_given,
        size=size,
        channels=data.channels,
        latent_size=latent_size,
        latent_channels=latent.channels,
        frame_channels=data.channels + 1 if context_frames else 0,
    )
    device = torch.device(device) if device else torch.get_default_device()
    skeleton = WithoutValues() if device.type == "meta" else contextlib.nullcontext()
    with bounded(), device, skeleton, torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(getattr(spec.train, spec.stages[0]).seed, "init"))
        with _located(spec, "encoder"):
            channels = latent.channels * (2 if latent.variance == "learned" else 1)
            accepts = signature(ENCODERS.get(spec.encoder.kind)).parameters
            if controls and "rate_controls" not in accepts:
                raise ValueError(f"{spec.encoder.kind!r} takes no rate control: give one loss factor and one bias")
            control = (len(controls),) if controls else ()
            encoder = ENCODERS.build(spec.encoder, size, data.channels, channels, latent.downsample, *control)
            if controls:
                encoder.rate_gain = RateGain([control.log_gain() for control in controls])
        if spec.decoder is None and spec.final_decoder is None and not hasattr(encoder, "decode"):
            raise spec.error(
                "decoder", f"encoder {spec.encoder.kind!r} does not decode by itself: give a final_decoder"
            )
        if spec.latent.decoded and (spec.decoder or spec.final_decoder):
            raise spec.error("latent.decoded", "a decoder of the spec takes z_0, with its noise: remove this key")
        prior = _prior(spec, z, data)
        decoder = final_decoder = None
        if "decoder" not in spec.replaced_decoders:
            decoder = _decoder(spec, x, data)
        if "final_decoder" not in spec.replaced_decoders:
            final_decoder = _diffusion_model(spec, "final_decoder", x, data, spec.conditioning.decoder_dropout)
        base = _diffusion_model(spec, "base", z_given, data, spec.conditioning.base_dropout)
        distilled = _distilled(spec, x, data)
    if pretrained and device.type != "meta" and hasattr(encoder, "load_pretrained"):
        with _located(spec, "encoder"):
            encoder.load_pretrained()
    contract = Contract(
        size=size,
        channels=data.channels,
        latent_size=latent_size,
        latent_channels=latent.channels,
        latent_logsnr=latent.logsnr,
        num_classes=data.num_classes,
        label_names=data.label_names,
        sampling=sampling_defaults(spec),
        context_frames=context_frames,
        frame_rate=data.frame_rate,
        learned_variance=latent.variance == "learned",
        single_stage=spec.base is None,
        text_tokens=data.text_tokens,
        text_width=data.text_width,
        frozen=spec.frozen,
        decodes_clean=spec.latent.decoded == "z_clean",
        distilled_steps=spec.distilled.steps if spec.distilled else (),
        rate_controls=controls,
    )
    model = UnifiedLatents(encoder, prior, decoder, base, contract, final_decoder=final_decoder, distilled=distilled)
    model.config = spec
    for stage in spec.stages:
        if (proxy := compile_proxy(spec, stage)) is not None:
            with _located(spec, f"train.{stage}.parametrisation"):
                scale_initial_weights(trained_networks(model, stage), proxy)
    return model.eval()


def compile_proxy(spec: Spec, stage: Stage) -> nn.ModuleDict | None:
    """The networks that a stage trains, on "meta" and as narrow as those that its learning rate was tuned on (µP).

    None for the standard parametrisation.
    """
    if (proxy := proxy_spec(spec, stage)) is None:
        return None
    try:
        return trained_networks(compile_model(proxy, "meta"), stage)
    except SpecError as error:
        raise spec.error(f"train.{stage}.parametrisation.proxy", str(error)) from None


def name_labels(model: UnifiedLatents, names: Sequence[str]) -> None:
    """Give the model's labels the names in its data; no names change nothing. Raises ValueError for another number."""
    names = list_texts(names, "label names: expected a list of names")
    if names and len(names) != model.contract.num_classes:
        raise ValueError(f"there are {len(names)} label names for {model.contract.num_classes} labels")
    if names:
        model.contract = replace(model.contract, label_names=tuple(names))


def sampling_defaults(spec: Spec) -> dict[str, Sampling]:
    """The samplers of a model of this spec, for "base" and "decoder", unless a call says otherwise."""
    return {name: Sampling(**getattr(spec.sample, name).model_dump()) for name in ("base", "decoder")}


def _check_other_data(spec: Spec, data: DataContract) -> None:
    """Check that the data of stage 1, if it is other data, has the same shape."""
    other, (_, path) = data_contract(spec, "latents"), stage_data(spec, "latents")
    if other.shape != data.shape:
        raise spec.error(path, f"has examples of shape {other.shape}, data has {data.shape}")
    for part, network in {"prior": spec.prior, "decoder": spec.decoder}.items():
        if (
            path != "data"
            and isinstance(network, NetworkConfig)
            and (network.class_conditional or network.text_conditional)
        ):
            raise spec.error(path, f"labels and captions may differ in meaning there: {part} must not be conditional")


def _context_frames(spec: Spec, data: DataContract) -> int:
    frames = spec.conditioning.frames
    if frames and data.frames is None:
        raise spec.error("conditioning.frames", "the data is of images, which have no frames to continue")
    if data.frames is not None and frames >= data.frames:
        raise spec.error("conditioning.frames", f"{frames} of the clip's {data.frames} frames leave none to generate")
    return frames


def _rate_controls(spec: Spec) -> tuple[RateControl, ...]:
    """The loss factor and the bias, as far as they have ranges."""
    controls = []
    for name in STEPS:
        value = getattr(spec.base, name, None)
        base = value if value is None or isinstance(value, tuple) else (value, value)
        if ends := rate_range(spec, name):
            controls.append(RateControl.of(name, ends, base))
    return tuple(controls)


def _random_logsnr(spec: Spec, diffusion: GaussianDiffusion) -> TruncatedLogistic | None:
    """The distribution of the latent's log-SNR between the prior's λ(1) and λ_z(0); None if it is fixed."""
    if spec.latent.logsnr_bias is None:
        return None
    with _located(spec, "latent"):
        return TruncatedLogistic(spec.latent.logsnr_bias, diffusion.schedule.logsnr_min, spec.latent.logsnr)


def _prior(spec: Spec, inputs: DenoiserInputs, data: DataContract) -> DiffusionPrior | NormalPrior | None:
    config = spec.prior
    if isinstance(config, sections.NormalPriorConfig):
        return NormalPrior(spec.latent.logsnr, config.weight)
    if config is None:
        return None
    network, diffusion = _network(spec, "prior", inputs, data), _diffusion(spec, "prior")
    dropout = ConditionDropout(config.label_dropout, config.text_dropout)
    return DiffusionPrior(
        network,
        diffusion,
        stop_gradient=config.stop_gradient,
        normal_kl=config.normal_kl,
        dropout=dropout,
        takes_text=config.text_conditional,
        random_logsnr=_random_logsnr(spec, diffusion),
    )


def _decoder(spec: Spec, inputs: DenoiserInputs, data: DataContract) -> DiffusionModel | RegressionDecoder | None:
    config, frames = spec.decoder, spec.conditioning.decoder_dropout
    if isinstance(config, sections.RegressionDecoderConfig):
        dropout = ConditionDropout(config.label_dropout, config.text_dropout, frames)
        network = _network(spec, "decoder", inputs, data)
        return RegressionDecoder(
            network,
            config.weight,
            dropout=dropout,
            takes_text=config.text_conditional,
            takes_latent_logsnr=config.latent_logsnr,
        )
    return _diffusion_model(spec, "decoder", inputs, data, frames)


def _diffusion_model(
    spec: Spec, part: str, inputs: DenoiserInputs, data: DataContract, frame_dropout: float
) -> DiffusionModel | None:
    config: DiffusionConfig | None = getattr(spec, part)
    if config is None:
        return None
    network, diffusion = _network(spec, part, inputs, data), _diffusion(spec, part)
    with _located(spec, f"{part}.weighting"):
        weighting = WEIGHTINGS.build(config.weighting)
    dropout = ConditionDropout(config.label_dropout, config.text_dropout, frame_dropout)
    return DiffusionModel(
        network,
        diffusion,
        weighting,
        dropout=dropout,
        takes_text=config.text_conditional,
        takes_latent_logsnr=getattr(config, "latent_logsnr", False),
    )


def _distilled(spec: Spec, inputs: DenoiserInputs, data: DataContract) -> DistilledDecoder | None:
    """A student of the decoder: the same network without dropout, conditioned on the number of steps."""
    if spec.distilled is None:
        return None
    part, steps = spec.teacher, spec.distilled.steps
    inputs = replace(inputs, step_counts=len(steps))
    student = _diffusion_model(spec, part, inputs, data, spec.conditioning.decoder_dropout)
    assert student is not None
    if len(steps) > 1 and not any(".step_count." in name for name in student.state_dict()):
        raise spec.error("distilled.steps", f"the {part}'s backbone takes no step count: give one number of steps")
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    learned = (spec.train.distill and spec.train.distill.teacher_steps) or 0
    return DistilledDecoder(student, steps=steps, target=spec.distilled.target, teacher_steps=learned)


def _diffusion(spec: Spec, part: str) -> GaussianDiffusion:
    config: DiffusionConfig = getattr(spec, part)
    with _located(spec, f"{part}.schedule"):
        schedule = SCHEDULES.build(config.schedule)
    return GaussianDiffusion(schedule, config.prediction, final_prediction=spec.latent.decoded == "z_clean")


def _network(spec: Spec, part: str, inputs: DenoiserInputs, data: DataContract) -> nn.Module:
    config: NetworkConfig = getattr(spec, part)
    if config.class_conditional:
        if not data.num_classes:
            raise spec.error(f"{part}.class_conditional", "the data has no class labels")
        inputs = replace(inputs, num_classes=data.num_classes)
    if config.text_conditional:
        if not data.text_width:
            raise spec.error(f"{part}.text_conditional", "the data has no captions: no width of text embeddings")
        inputs = replace(inputs, text_tokens=data.text_tokens, text_width=data.text_width)
    inputs = replace(inputs, latent_logsnr=getattr(config, "latent_logsnr", False))
    with _located(spec, f"{part}.backbone"):
        network = BACKBONES.build(config.backbone, inputs)
        if inputs.rate_controls and not any(".rate_control." in name for name in network.state_dict()):
            raise ValueError(f"{config.backbone.kind!r} takes no rate control: give one loss factor and one bias")
        return network


@contextlib.contextmanager
def _located(spec: Spec, path: str) -> Iterator[None]:
    """Give a constructor's ValueError the file and line of the key that its first word names."""
    try:
        yield
    except ValueError as error:
        match = re.match(r"[a-z_]+(\.[a-z_]+)*", message := str(error))
        key, section = (match[0] if match else ""), spec
        for name in path.split("."):
            section = getattr(section, name)
        if "." in key:
            path = key
        elif key in getattr(type(section), "model_fields", {}):
            path = f"{path}.{key}"
        raise spec.error(path, message) from None
