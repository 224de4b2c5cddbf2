"""From a spec to a PyTorch model: sizes are derived here, once; constructors' complaints get a file and line."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch

from ulzoo.contract import Contract, Sampling
from ulzoo.data.contract import DataContract
from ulzoo.data.source import Source
from ulzoo.denoising import DiffusionModel
from ulzoo.diffusion import GaussianDiffusion
from ulzoo.model import UnifiedLatents
from ulzoo.nn import DenoiserInputs
from ulzoo.nn.grid import divide
from ulzoo.registry.components import BACKBONES, DATASETS, ENCODERS, SCHEDULES, WEIGHTINGS
from ulzoo.registry.schema import Diffusion, Spec
from ulzoo.seeds import derive_seed


def data_contract(spec: Spec) -> DataContract:
    """What the spec's data will look like, without touching it."""
    keys = spec.data.model_dump(exclude={"kind"})
    with _located(spec, "data"):
        source = cast(type[Source], DATASETS.get(spec.data.kind))
        return source.describe(**keys)


def compile_model(spec: Spec, device: torch.device | str | None = None) -> UnifiedLatents:
    """Build the four networks with fresh weights, seeded by `train.latents.seed`, in eval mode.

    Args:
        device: where; "meta" checks and measures a model without memory for it. None is PyTorch's default device.

    Raises:
        SpecError: parts that do not fit, with the key that is to blame.
    """
    data = data_contract(spec)
    size = data.size
    latent = spec.latent
    with _located(spec, "latent.downsample"):
        latent_size = divide(size, latent.downsample, "latent.downsample")
    given = _given_frames(spec, data)
    z = DenoiserInputs(latent_size, latent.channels)
    z_given = replace(z, given_channels=latent.channels + 1 if given else 0)
    x = DenoiserInputs(
        size, data.channels, latent_size, latent.channels, given_channels=data.channels + 1 if given else 0
    )
    with torch.device(device or torch.get_default_device()), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(spec.train.latents.seed, "init"))
        with _located(spec, "encoder"):
            encoder = ENCODERS.build(spec.encoder, size, data.channels, latent.channels, latent.downsample)
        prior = _diffusion_model(spec, "prior", z, data)
        decoder = _diffusion_model(spec, "decoder", x, data, spec.conditioning.decoder_dropout)
        base = _diffusion_model(spec, "base", z_given, data, spec.conditioning.base_dropout)
    contract = Contract(
        size=size,
        channels=data.channels,
        latent_size=latent_size,
        latent_channels=latent.channels,
        latent_logsnr=latent.logsnr,
        num_classes=data.num_classes,
        label_names=data.label_names,
        sampling=sampling_defaults(spec),
        given_frames=given,
        frame_rate=data.frame_rate,
    )
    return UnifiedLatents(encoder, prior, decoder, base, contract).eval()


def sampling_defaults(spec: Spec) -> dict[str, Sampling]:
    """How a model of this spec samples its base and its decoder unless told otherwise."""
    return {name: Sampling(**getattr(spec.sample, name).model_dump()) for name in ("base", "decoder")}


def _given_frames(spec: Spec, data: DataContract) -> int:
    given = spec.conditioning.frames
    if given and data.frames is None:
        raise spec.error("conditioning.frames", "the data is of images, which have no frames to be given")
    if data.frames is not None and given >= data.frames:
        raise spec.error("conditioning.frames", f"{given} of the clip's {data.frames} frames leave none to generate")
    return given


def _diffusion_model(
    spec: Spec, part: str, inputs: DenoiserInputs, data: DataContract, frame_dropout: float = 0.0
) -> DiffusionModel:
    config: Diffusion = getattr(spec, part)
    if config.class_conditional:
        if not data.num_classes:
            raise spec.error(f"{part}.class_conditional", "the data has no class labels")
        inputs = replace(inputs, num_classes=data.num_classes, label_dropout=config.label_dropout)
    with _located(spec, f"{part}.schedule"):
        schedule = SCHEDULES.build(config.schedule)
    with _located(spec, f"{part}.weighting"):
        weighting = WEIGHTINGS.build(config.weighting)
    with _located(spec, f"{part}.backbone"):
        network = BACKBONES.build(config.backbone, inputs)
    diffusion = GaussianDiffusion(schedule, config.prediction)
    return DiffusionModel(network, diffusion, weighting, frame_dropout)


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
