"""Clips of one or several trained models, and their files: contact sheet and films beside each other."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ulzoo.data import Source, in_order
from ulzoo.media.pixels import frame_psnr
from ulzoo.model.contract import Contract
from ulzoo.model.unified_latents import LatentNetwork, UnifiedLatents
from ulzoo.visualization.image_samples import draw, label_name, label_numbers, share
from ulzoo.visualization.video import Band, Clips, save_contact_sheet, save_film

AT_ONCE = 8
MOST = 128  # clips of a model that a film has room for
FRAME_RATE = 8.0  # where the data does not say


def save_clips(path: Path, bands: Sequence[Band], contract: Contract) -> list[Path]:
    """Write the contact sheet, the MP4 and the animated picture: a GIF if `path` is one, else WebP.

    Returns:
        the three files, which differ from `path` in the suffix only.
    """
    moving = ".gif" if path.suffix.lower() == ".gif" else ".webp"
    sheet, *films = (path.with_suffix(suffix) for suffix in (".png", ".mp4", moving))
    save_contact_sheet(sheet, bands)
    for film in films:
        save_film(film, bands, contract.frame_rate or FRAME_RATE)
    return [sheet, *films]


def sampled_clips(
    models: Mapping[str, UnifiedLatents],
    source: Source | None,
    n: int,
    *,
    labels: str | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    network: LatentNetwork | None = None,
    whole: bool = False,
) -> list[Band]:
    """n clips of each model; those that continue frames are given the first ones of the source's clips, which are drawn
    above what the models make of them.

    Args:
        models: by the name to write above their clips.
        source: where frames to be given come from, if any are.
        labels: see `label_numbers`; shared out evenly.
        guidance, steps, seed, network: see `ulzoo.visualization.image_samples.sample_rows`. The prior is never given frames.
        whole: give no frames, of models that learned to do without.

    Raises:
        ValueError: labels, a network or a size that a model does not have.
    """
    _check_number(n)
    bands: list[Band] = []
    compared: dict[str, UnifiedLatents] = {}
    for name, model in models.items():
        if model.contract.given_frames and network != "prior" and not whole:
            compared[name] = model
            continue
        numbers = _numbers(labels, n, model.contract)
        clips = draw(model, n, _tensor(numbers), guidance, steps, seed, network, at_once=AT_ONCE).cpu()
        if not numbers:
            bands.append([Clips(name, clips)])
        for number, together in groupby(range(len(numbers)), numbers.__getitem__):
            bands.append([Clips(f"{name} · {label_name(number, model.contract)}", clips[list(together)])])
    if compared:
        assert source is not None
        _check_sizes(compared, source)
        batch = next(in_order(source, n))
        x = batch["x"]
        band = [Clips("truth", x, notes=batch["key"])]
        for name, model in compared.items():
            given = model.contract.given_frames
            numbers = _numbers(labels, len(x), model.contract)
            frames = x[:, :, :given]
            clips = draw(model, len(x), _tensor(numbers), guidance, steps, seed, network, frames, at_once=AT_ONCE).cpu()
            decibels = frame_psnr(clips[:, :, given:], x[:, :, given:]).mean(1).tolist()
            notes = [f"{value:.2f} dB" for value in decibels]
            if numbers:
                notes = [f"{label_name(i, model.contract)} · {note}" for i, note in zip(numbers, notes, strict=True)]
            band.append(Clips(name, clips, given, notes))
        bands.append(band)
    return bands


@torch.no_grad()
def reconstructed_clips(
    models: Mapping[str, UnifiedLatents],
    source: Source,
    n: int,
    *,
    steps: int | None = None,
    seed: int = 0,
    rate_samples: int = 8,
) -> list[Band]:
    """The first n clips of `source`, above each model's reconstructions with their PSNR and rate.

    A decoder that must be given a clip's first frames is given them; others do without.

    Raises:
        ValueError: a model of clips of another size.
    """
    _check_number(n)
    _check_sizes(models, source)
    batch = next(in_order(source, n))
    x = batch["x"]
    band = [Clips("truth", x, notes=batch["key"])]
    for name, model in models.items():
        contract = model.contract
        given = model.frames_needed
        generator = torch.Generator(model.device).manual_seed(seed)
        made, notes = [], []
        for some, label in zip(x.split(AT_ONCE), batch["label"].split(AT_ONCE), strict=True):
            clips, numbers = some.to(model.device), label.to(model.device)
            bits = model.rate(clips, rate_samples, generator, labels=numbers) / contract.pixels
            frames = clips[:, :, :given] if given else None
            decoded = model.reconstruct(clips, steps, generator, numbers, frames)
            decibels = frame_psnr(decoded[:, :, given:], clips[:, :, given:]).mean(1)
            made.append(decoded.cpu())
            notes += [
                f"{db:.2f} dB · {rate:.3f} bits/pixel"
                for db, rate in zip(decibels.tolist(), bits.tolist(), strict=True)
            ]
        band.append(Clips(name, torch.cat(made), given, notes))
    return [band]


def _numbers(labels: str | None, n: int, contract: Contract) -> list[int]:
    """n labels in groups of about equal size, or none."""
    if not labels:
        return []
    return [number for number, count in share(n, label_numbers(labels, contract)) for _ in range(count)]


def _tensor(numbers: list[int]) -> Tensor | None:
    return torch.tensor(numbers) if numbers else None


def _check_number(n: int) -> None:
    if n > MOST:
        raise ValueError(f"films have room for {MOST} clips of each model, not {n}")


def _check_sizes(models: Mapping[str, UnifiedLatents], source: Source) -> None:
    for name, model in models.items():
        if (expected := model.contract.shape) != source.shape:
            raise ValueError(f"{name}: is a model of clips of shape {expected}, these are {source.shape}")
