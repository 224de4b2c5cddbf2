"""Pictures of one or several trained models side by side: rows for `ulzoo.evaluation.save_grid`."""

import math
from collections.abc import Mapping
from itertools import chain, pairwise

import torch
from torch import Tensor

from ulzoo.data import Source, in_order
from ulzoo.media.captions import Text
from ulzoo.media.pixels import psnr
from ulzoo.model.contract import Contract
from ulzoo.model.unified_latents import LatentNetwork, UnifiedLatents
from ulzoo.runtime.messages import suggest
from ulzoo.visualization.image_grid import GridRow

COLUMNS = 12
AT_ONCE = 64


def label_numbers(text: str, contract: Contract) -> list[int]:
    """Class labels from their numbers or names, "0,Flags"; a name may be cut short while it stays unambiguous.

    Raises:
        ValueError: the model has no classes, or not this one.
    """
    if not contract.num_classes:
        raise ValueError("this model's data has no class labels")
    return [_label_number(word.strip(), contract) for word in text.split(",")]


def _label_number(word: str, contract: Contract) -> int:
    if word.isdecimal():
        if int(word) >= contract.num_classes:
            raise ValueError(f"there is no label {word}; they are 0 to {contract.num_classes - 1}")
        return int(word)
    names = contract.label_names
    if not names:
        raise ValueError(f"this model's labels have numbers only, 0 to {contract.num_classes - 1}, not {word!r}")
    found = [i for i, name in enumerate(names) if word and name.lower().startswith(word.lower())]
    exact = [i for i in found if names[i].lower() == word.lower()]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        raise ValueError(f"the label {word!r} is ambiguous: {', '.join(names[i] for i in found)}")
    raise ValueError(f"unknown label {word!r}{suggest(word, names)}")


def sample_rows(
    models: Mapping[str, UnifiedLatents],
    n: int,
    *,
    labels: str | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    network: LatentNetwork | None = None,
    source: Source | None = None,
) -> list[GridRow]:
    """n samples of each model; with labels, shared out evenly among them, each on rows of its own.

    A model that was trained with captions gets those of the first examples of `source`, if there is one.

    Args:
        models: by the name to write above their rows.
        labels: see `label_numbers`.
        guidance: scale; needs labels.
        steps: of the network that samples the latent.
        seed: every model starts from the same.
        network: what samples the latent; see `UnifiedLatents.sample_latents`.
        source: where captions come from.

    Raises:
        ValueError: labels or a network that a model does not have.
    """
    asked = {name: label_numbers(labels, model.contract) if labels else [] for name, model in models.items()}
    text = None if source is None else next(in_order(source, n))["text"]
    rows: list[GridRow] = []
    for name, model in models.items():
        parts = share(n, asked[name])
        numbers = torch.tensor([number for number, count in parts for _ in range(count)]) if asked[name] else None
        captions = text if model.contract.text_width else None
        pictures = draw(model, n, numbers, guidance, steps, seed, network, text=captions)
        for (number, _), part in zip(parts, pictures.split([count for _, count in parts]), strict=True):
            title = f"{name} · {label_name(number, model.contract)}" if asked[name] else name
            rows += _wrapped(title, part)
    return rows


def share(n: int, labels: list[int]) -> list[tuple[int, int]]:
    """(label, how many), adding up to n, none empty."""
    labels = labels or [-1]
    bounds = [n * i // len(labels) for i in range(len(labels) + 1)]
    return [(label, end - start) for label, (start, end) in zip(labels, pairwise(bounds), strict=True) if end > start]


def label_name(number: int, contract: Contract) -> str:
    return contract.label_names[number] if contract.label_names else f"label {number}"


def draw(
    model: UnifiedLatents,
    n: int,
    labels: Tensor | None,
    guidance: float | None,
    steps: int | None,
    seed: int,
    network: LatentNetwork | None,
    frames: Tensor | None = None,
    text: Text | None = None,
    at_once: int = AT_ONCE,
) -> Tensor:
    """n samples on the model's device, `at_once` at a time from one generator."""
    generator = torch.Generator(model.device).manual_seed(seed)
    parts = []
    for start in range(0, n, at_once):
        some = slice(start, min(start + at_once, n))
        these = None if labels is None else labels[some]
        given = None if frames is None else frames[some].to(model.device)
        told = text and text.part(some)
        z_0 = model.sample_latents(some.stop - start, these, guidance, steps, generator, network, given, told)
        parts.append(model.decode(z_0, generator=generator, labels=these, frames=given, text=told))
    return torch.cat(parts)


@torch.no_grad()
def reconstruction_rows(
    models: Mapping[str, UnifiedLatents],
    source: Source,
    n: int,
    *,
    steps: int | None = None,
    seed: int = 0,
    rate_samples: int = 8,
) -> list[GridRow]:
    """The first n images of `source`, then each model's reconstructions with their mean PSNR and rate in the label.

    Args:
        models: by the name to write above their rows; all of the source's size.
        steps: of the decoder; the spec's if None.
        seed: of the noise, the same for every model.

    Raises:
        ValueError: a model of images of another size.
    """
    for name, model in models.items():
        expected = model.contract.shape
        if expected != source.shape:
            raise ValueError(f"{name}: is a model of images of shape {expected}, these are {source.shape}")
    batch = next(in_order(source, n))
    x = batch["x"]
    drawn = [_wrapped("originals", x)]
    for name, model in models.items():
        on_device, labels = x.to(model.device), batch["label"].to(model.device)
        text = batch["text"]
        generator = torch.Generator(model.device).manual_seed(seed)
        bits = (
            model.rate(on_device, rate_samples, generator, labels=labels, text=text).mean().item()
            / model.contract.pixels
        )
        decoded = model.reconstruct(on_device, steps, generator, labels, text=text)
        decibels = psnr(decoded, on_device).mean().item()
        drawn.append(_wrapped(f"{name} · {decibels:.2f} dB · {bits:.3f} bits/pixel", decoded))
    return list(chain.from_iterable(zip(*drawn, strict=True)))  # rows of one stretch of images stay together


def _wrapped(title: str, pictures: Tensor) -> list[GridRow]:
    """Rows of about equal length, no longer than COLUMNS; the first has the title."""
    rows = pictures.cpu().chunk(math.ceil(len(pictures) / COLUMNS))
    return [(title if i == 0 else "", row) for i, row in enumerate(rows)]
