"""Samples and reconstructions of images by one or several models side by side, as rows of a grid."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import torch
from torch import Tensor

from ulzoo.data import Source
from ulzoo.data.subset import spread_batch
from ulzoo.diffusion import IndependentNoise
from ulzoo.media.pixels import psnr
from ulzoo.model.conditioning import Conditions, DecodeOptions
from ulzoo.model.contract import Contract, DecoderName
from ulzoo.model.networks import LatentNetwork
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.messages import suggest
from ulzoo.visualization.image_grid import GridRow

COLUMNS = 12


@dataclass(frozen=True)
class SampleRequest:
    """What to sample from each model.

    Attributes:
        n: number of images or clips.
        labels: class labels by number or name, "0,Flags", in equal shares; None for samples without a class.
        guidance: scale of classifier-free guidance, which needs labels or captions; the spec's if None.
        steps: steps of the network that samples the latent; the spec's if None.
        seed: seed of all noise, the same for every model.
        network: the network that samples the latent; see `UnifiedLatents.sample_latents`.
        whole_clips: generate whole clips even with models that continue the first frames of the data's clips.
        decoder: the network that decodes; see `DecodeOptions`.
    """

    n: int
    labels: str | None = None
    guidance: float | None = None
    steps: int | None = None
    seed: int = 0
    network: LatentNetwork | None = None
    whole_clips: bool = False
    decoder: DecoderName | None = None


def label_numbers(text: str, contract: Contract) -> list[int]:
    """Class labels from their names or numbers, "0,Flags"; a name may be abbreviated if it stays unambiguous.

    A text that is a name is never read as a number. Where names are numbers, labels are given by name only.

    Raises:
        ValueError: the model has no classes, or no such class.
    """
    if not contract.num_classes:
        raise ValueError("this model's data has no class labels")
    words = [text] if text in contract.label_names else text.split(",")  # a name may contain commas
    return [_label_number(word.strip(), contract) for word in words]


def _label_number(word: str, contract: Contract) -> int:
    names = contract.label_names
    matches = [i for i, name in enumerate(names) if name == word]
    matches = matches or [i for i, name in enumerate(names) if name.lower() == word.lower()]
    if not matches and word.isdecimal() and not any(name.isdecimal() for name in names):
        if int(word) >= contract.num_classes:
            raise ValueError(f"there is no label {word}; they are 0 to {contract.num_classes - 1}")
        return int(word)
    if not names:
        raise ValueError(f"this model's labels have numbers only, 0 to {contract.num_classes - 1}, not {word!r}")
    if not matches and word and not word.isdecimal():
        matches = [i for i, name in enumerate(names) if name.lower().startswith(word.lower())]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"the label {word!r} is ambiguous: {', '.join(names[i] for i in matches)}")
    raise ValueError(f"unknown label {word!r}{suggest(word, names)}")


def label_name(number: int, contract: Contract) -> str:
    """The name of a class label, or a text with its number."""
    return contract.label_names[number] if contract.label_names else f"label {number}"


def split_evenly(n: int, labels: list[int]) -> list[tuple[int, int]]:
    """(label, count) with counts of about equal size that sum to n, none of them 0; label -1 without labels."""
    labels = labels or [-1]
    bounds = [n * i // len(labels) for i in range(len(labels) + 1)]
    return [(label, end - start) for label, (start, end) in zip(labels, pairwise(bounds), strict=True) if end > start]


def sample_rows(
    models: Mapping[str, UnifiedLatents], request: SampleRequest, *, source: Source | None = None
) -> list[GridRow]:
    """Samples of each model; with several labels, each label has rows of its own.

    Args:
        models: the models by the titles of their rows.
        request: what to sample.
        source: supplies captions, spread over its examples, to models that take captions.

    Raises:
        ValueError: a model does not have the labels or the network.
    """
    labels = {
        name: label_numbers(request.labels, model.contract) if request.labels else [] for name, model in models.items()
    }
    text = None if source is None else spread_batch(source, request.n)["text"]
    rows: list[GridRow] = []
    for name, model in models.items():
        shares = split_evenly(request.n, labels[name])
        numbers = torch.tensor([number for number, count in shares for _ in range(count)]) if labels[name] else None
        conditions = Conditions(labels=numbers, text=text if model.contract.text_width else None)
        images = draw_samples(model, request, conditions)
        for (number, _), part in zip(shares, images.split([count for _, count in shares]), strict=True):
            title = f"{name} · {label_name(number, model.contract)}" if labels[name] else name
            rows += _wrap(title, part)
    return rows


def draw_samples(
    model: UnifiedLatents, request: SampleRequest, conditions: Conditions, *, batch_size: int | None = None
) -> Tensor:
    """`request.n` samples, (n, C, *size), on the model's device, in batches that do not change the noise.

    Args:
        model: in eval mode.
        request: what to sample; its labels are ignored.
        conditions: n class labels, captions and context frames.
        batch_size: largest batch; the contract's default if None.

    Raises:
        ValueError: the model does not have the network, or there is guidance without labels and captions.
    """
    if request.guidance not in (None, 1) and conditions.labels is None and conditions.text is None:
        raise ValueError("guidance needs class labels or captions: add labels, or leave out guidance")
    latent_noise, noise = seeded_noise(request.seed, request.n, model.device)
    sampling = model.contract.sampling_with("base", request.steps, request.guidance)
    if conditions.frames is not None:
        conditions = replace(conditions, frames=conditions.frames.to(model.device))
    batches = []
    for rows in model.contract.batches(request.n, batch_size):
        part = conditions.part(rows)
        z_0 = model.sample_latents(
            rows.stop - rows.start,
            conditions=part,
            sampling=sampling,
            generator=latent_noise.part(rows),
            network=request.network,
        )
        options: DecodeOptions = {
            "labels": part.labels,
            "frames": part.frames,
            "text": part.text,
            "network": request.decoder,
        }
        batches.append(model.decode(z_0, generator=noise.part(rows), **options))
    return torch.cat(batches)


@torch.no_grad()
def reconstruction_rows(
    models: Mapping[str, UnifiedLatents],
    source: Source,
    n: int,
    *,
    steps: int | None = None,
    network: DecoderName | None = None,
    seed: int = 0,
    rate_samples: int = 8,
) -> list[GridRow]:
    """n images spread over `source`, and each model's reconstructions with their mean PSNR and rate in the label.

    Args:
        models: the models by the titles of their rows, all of the source's size.
        source: the images.
        n: number of images.
        steps, network: of the decoder; see `DecodeOptions`.
        seed: seed of the noise, the same for every model.
        rate_samples: draws of (t, ε) per image for the rate.

    Raises:
        ValueError: a model has images of another size.
    """
    for name, model in models.items():
        expected = model.contract.shape
        if expected != source.shape:
            raise ValueError(f"{name}: is a model of images of shape {expected}, these are {source.shape}")
    batch = spread_batch(source, n)
    images, text = batch["x"], batch["text"]
    rows = [_wrap("originals", images)]
    for name, model in models.items():
        x, labels = images.to(model.device), batch["label"].to(model.device)
        rate_generator, generator = (torch.Generator(model.device).manual_seed(seed) for _ in range(2))
        bits = model.rate(x, samples=rate_samples, generator=rate_generator, labels=labels, text=text).mean().item()
        options: DecodeOptions = {"labels": labels, "text": text, "steps": steps, "network": network}
        reconstruction = model.reconstruct(x, generator=generator, **options)
        decibels = psnr(reconstruction, x).mean().item()
        title = f"{name} · {decibels:.2f} dB · {bits / model.contract.pixels:.3f} bits/pixel"
        rows.append(_wrap(title, reconstruction))
    return list(chain.from_iterable(zip(*rows, strict=True)))  # the rows of the same images are adjacent


def seeded_noise(seed: int, n: int, device: torch.device) -> tuple[IndependentNoise, IndependentNoise]:
    """The noise of n examples that two methods of a model draw with one generator of this seed."""
    generator = torch.Generator(device).manual_seed(seed)
    first, second = (IndependentNoise.from_generator(generator, n, device) for _ in range(2))
    return first, second


def _wrap(title: str, images: Tensor) -> list[GridRow]:
    """Rows of about equal length, at most COLUMNS; the first has the title."""
    rows = images.cpu().chunk(math.ceil(len(images) / COLUMNS))
    return [(title if i == 0 else "", row) for i, row in enumerate(rows)]
