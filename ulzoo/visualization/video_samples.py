"""Samples and reconstructions of clips by one or several models side by side, as contact sheet and videos."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ulzoo.data import Source
from ulzoo.data.subset import spread_batch
from ulzoo.media.pixels import frame_psnr
from ulzoo.model.conditioning import Conditions, DecodeOptions
from ulzoo.model.contract import Contract, DecoderName
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.visualization.image_samples import (
    SampleRequest,
    draw_samples,
    label_name,
    label_numbers,
    seeded_noise,
    split_evenly,
)
from ulzoo.visualization.video import Band, Clips, save_contact_sheet, save_video

BATCH_SIZE = 8
MAX_CLIPS = 128  # clips of a model that fit into a video
FRAME_RATE = 8.0  # if the data has none


def save_clips(path: Path, bands: Sequence[Band], contract: Contract) -> list[Path]:
    """Save a contact sheet, an MP4 and an animated image: a GIF if `path` is one, else WebP.

    Returns:
        the three files, which differ from `path` in the suffix only.
    """
    animated = ".gif" if path.suffix.lower() == ".gif" else ".webp"
    sheet, *videos = (path.with_suffix(suffix) for suffix in (".png", ".mp4", animated))
    save_contact_sheet(sheet, bands)
    for video in videos:
        save_video(video, bands, contract.frame_rate or FRAME_RATE)
    return [sheet, *videos]


def sampled_clips(
    models: Mapping[str, UnifiedLatents], request: SampleRequest, *, source: Source | None = None
) -> list[Band]:
    """Clips of each model; models that continue context frames continue those of the source's clips, shown above.

    The prior generates whole clips always.

    Args:
        models: the models by the titles of their clips.
        request: what to sample.
        source: supplies the context frames; needed if a model continues any.

    Raises:
        ValueError: a model does not have the labels, the network or the source's size, or there are too many clips.
    """
    _check_number(request.n)
    bands: list[Band] = []
    continuing: dict[str, UnifiedLatents] = {}
    for name, model in models.items():
        if model.contract.context_frames and request.network != "prior" and not request.whole_clips:
            continuing[name] = model
            continue
        numbers = _label_list(request, model.contract)
        clips = draw_samples(model, request, Conditions(labels=_tensor(numbers)), batch_size=BATCH_SIZE).cpu()
        if not numbers:
            bands.append([Clips(name, clips)])
        for number, group in groupby(range(len(numbers)), numbers.__getitem__):
            bands.append([Clips(f"{name} · {label_name(number, model.contract)}", clips[list(group)])])
    if continuing:
        assert source is not None
        bands.append(_continued_clips(continuing, request, source))
    return bands


def _continued_clips(models: Mapping[str, UnifiedLatents], request: SampleRequest, source: Source) -> Band:
    """Clips spread over the source, and their continuations by each model with their PSNR."""
    _check_sizes(models, source)
    batch = spread_batch(source, request.n)
    x = batch["x"]
    request = replace(request, n=len(x))
    band = [Clips("truth", x, notes=batch["key"])]
    for name, model in models.items():
        context = model.contract.context_frames
        numbers = _label_list(request, model.contract)
        conditions = Conditions(labels=_tensor(numbers), frames=x[:, :, :context])
        clips = draw_samples(model, request, conditions, batch_size=BATCH_SIZE).cpu()
        decibels = frame_psnr(clips[:, :, context:], x[:, :, context:]).mean(1).tolist()
        notes = [f"{value:.2f} dB" for value in decibels]
        if numbers:
            notes = [f"{label_name(i, model.contract)} · {note}" for i, note in zip(numbers, notes, strict=True)]
        band.append(Clips(name, clips, context, notes))
    return band


@torch.no_grad()
def reconstructed_clips(
    models: Mapping[str, UnifiedLatents],
    source: Source,
    n: int,
    *,
    steps: int | None = None,
    network: DecoderName | None = None,
    seed: int = 0,
    rate_samples: int = 8,
) -> list[Band]:
    """n clips spread over `source`, above each model's reconstructions with their PSNR and rate.

    A decoder that needs the first frames of a clip gets them; others do not.

    Args:
        models: the models by the titles of their clips.
        source: the clips.
        n: number of clips.
        steps, network: of the decoder; see `DecodeOptions`.
        seed: seed of the noise, the same for every model.
        rate_samples: draws of (t, ε) per clip for the rate.

    Raises:
        ValueError: a model has clips of another size, or there are too many clips.
    """
    _check_number(n)
    _check_sizes(models, source)
    batch = spread_batch(source, n)
    clips = batch["x"]
    band = [Clips("truth", clips, notes=batch["key"])]
    for name, model in models.items():
        context = model.required_context_frames
        rate_noise, noise = seeded_noise(seed, len(clips), model.device)
        reconstructions, notes = [], []
        for start in range(0, len(clips), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            x, labels = clips[rows].to(model.device), batch["label"][rows].to(model.device)
            bits = model.rate(x, samples=rate_samples, generator=rate_noise.part(rows), labels=labels)
            frames = x[:, :, :context] if context else None
            options: DecodeOptions = {"labels": labels, "frames": frames, "steps": steps, "network": network}
            reconstruction = model.reconstruct(x, generator=noise.part(rows), **options)
            decibels = frame_psnr(reconstruction[:, :, context:], x[:, :, context:]).mean(1)
            reconstructions.append(reconstruction.cpu())
            notes += [
                f"{db:.2f} dB · {rate:.3f} bits/pixel"
                for db, rate in zip(decibels.tolist(), (bits / model.contract.pixels).tolist(), strict=True)
            ]
        band.append(Clips(name, torch.cat(reconstructions), context, notes))
    return [band]


def _label_list(request: SampleRequest, contract: Contract) -> list[int]:
    """The label of each sample, in groups of about equal size; [] without labels."""
    if not request.labels:
        return []
    shares = split_evenly(request.n, label_numbers(request.labels, contract))
    return [number for number, count in shares for _ in range(count)]


def _tensor(numbers: list[int]) -> Tensor | None:
    return torch.tensor(numbers) if numbers else None


def _check_number(n: int) -> None:
    if n > MAX_CLIPS:
        raise ValueError(f"a video has space for {MAX_CLIPS} clips of each model, not {n}")


def _check_sizes(models: Mapping[str, UnifiedLatents], source: Source) -> None:
    for name, model in models.items():
        if (expected := model.contract.shape) != source.shape:
            raise ValueError(f"{name}: is a model of clips of shape {expected}, these are {source.shape}")
