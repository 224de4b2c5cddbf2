"""All figures that a model has by itself, and those of a network to compare images with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ulzoo.data import Source
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.features.lpips import Lpips
from ulzoo.evaluation.frame_prediction import frame_prediction
from ulzoo.evaluation.image_distances import reconstruction_distance, sample_distance
from ulzoo.evaluation.protocol import figure_hashes
from ulzoo.evaluation.rate_distortion import rate_distortion
from ulzoo.evaluation.reference import Reference, read_statistics, reference_statistics, write_statistics
from ulzoo.evaluation.sample_file import SampleFile
from ulzoo.files.atomic import write_atomically
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup


def measure(
    model: UnifiedLatents,
    source: Source,
    *,
    data: dict[str, Any],
    split: str = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    rate_samples: int = 8,
    decoder_steps: int | None = None,
    seed: int = 0,
    decompose: bool = False,
    lpips: Lpips | None = None,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """`rate_distortion` and, of a model that can continue frames, `frame_prediction`, its protocol inside the other's.

    With each figure goes the hash of what it depends on, "hashes": those whose hashes are equal compare.

    Args:
        lpips: also measure this distance of reconstructions.
        on_image: told how many images or clips are done, and of how many; each is counted once for either part.
    """
    predicts = model.contract.given_frames > 0 and model.base is not None
    count = min(limit or len(source), len(source))
    total = 2 * count if predicts else count
    told: dict[str, Any] = {"data": data, "split": split, "limit": limit, "batch_size": batch_size, "seed": seed}
    results = rate_distortion(
        model,
        source,
        **told,
        rate_samples=rate_samples,
        decoder_steps=decoder_steps,
        decompose=decompose,
        lpips=lpips,
        on_image=lambda done: on_image(done, total),
    )
    if predicts:
        prediction = frame_prediction(model, source, **told, on_image=lambda done: on_image(count + done, total))
        results["figures"] |= prediction["figures"]
        results["protocol"]["frame_prediction"] = prediction["protocol"]
    results["hashes"] = figure_hashes(results)
    return results


def image_distances(
    model: UnifiedLatents,
    source: Source,
    features: ImageFeatures,
    *,
    data: dict[str, Any],
    split: str = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    decoder_steps: int | None = None,
    guidance: float | None = None,
    samples: int | None = None,
    reference: Source | None = None,
    reference_split: str = "train",
    statistics: Path | None = None,
    save_statistics: Path | None = None,
    save_samples: Path | None = None,
    all_distances: bool = False,
    seed: int = 0,
    processes: ProcessGroup = SINGLE_PROCESS,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Distances of reconstructions from their images and, if asked, of samples from a reference.

    One that was stopped goes on where it was, from what it put down in torch's cache (TORCH_HOME).

    Args:
        model: in eval mode, of images.
        source: of the split, of which the first `limit` images are reconstructed.
        data: the spec's data section, for the protocol.
        samples: how many to draw; no distance of samples if None.
        reference: all of whose images samples are compared with, and where their classes come from.
        reference_split: the split that `reference` is.
        statistics: compare samples with this file's mean and covariance instead.
        save_statistics: write those that samples (without samples: reconstructions) were compared with here.
        save_samples: write the samples to this .npz file, which cannot be gone on with where it was stopped.
        all_distances: also the kernel distance, precision, recall and, with Inception, its score; all features are
            kept in memory.
        processes: which share the reconstructing and sampling; the figures are the first one's.
        on_image: told how many images went through the network, and of how many.

    Returns:
        {"figures", "protocol": {"reconstructions", "generated"}}, ready for JSON.

    Raises:
        ValueError: what cannot be compared.
    """
    if statistics and all_distances:
        raise ValueError("kernel distance, precision and recall need the reference's images, not their statistics")
    if processes.world_size > 1 and (all_distances or save_samples):
        raise ValueError("all features, or samples in a file, are gathered by one process: start it without torchrun")
    imported = read_statistics(statistics, features.dimension) if statistics else None
    count = min(limit or len(source), len(source))
    assert samples is None or reference is not None
    referred = 0 if samples is None or imported or reference is None else len(reference)
    total, before = 2 * count + referred + (samples or 0), 0

    def counted(part: int) -> Callable[[int], None]:
        nonlocal before
        start, before = before, before + part
        return lambda done: on_image(start + done, total)

    unfinished = Path(torch.hub.get_dir()) / "ulzoo" / "unfinished"
    told: dict[str, Any] = {"data": data, "batch_size": batch_size, "unfinished": unfinished, "processes": processes}
    kept: dict[str, Any] = {"data": data, "keep_features": all_distances}
    own: Reference | None = None
    if processes.is_main:
        own = reference_statistics(source, features, **kept, split=split, limit=limit, on_image=counted(count))
    results = reconstruction_distance(
        model, source, features, own, **told, split=split, limit=limit, decoder_steps=decoder_steps, seed=seed,
        on_image=counted(count),
    )  # fmt: skip
    figures, protocol = results["figures"], {"reconstructions": results["protocol"]}
    if samples is not None and reference is not None:
        if processes.is_main:
            own = imported or reference_statistics(
                reference, features, **kept, split=reference_split, on_image=counted(referred)
            )
        named: dict[str, Any] = {"name": statistics.name if statistics else reference_split, "samples": samples}
        named |= {**told, "guidance": guidance, "seed": seed, "on_image": counted(samples)}
        if save_samples:
            height, width = model.contract.size

            def sample(aside: Path) -> None:
                with SampleFile(aside, named["samples"], (height, width)) as file:
                    told_to = {**named, "unfinished": None, "keep": file.add}
                    results.update(sample_distance(model, reference, features, own, **told_to))

            write_atomically(save_samples, sample)
        else:
            results = sample_distance(model, reference, features, own, **named)
        figures, protocol = figures | results["figures"], protocol | {"generated": results["protocol"]}
    if save_statistics and own:
        write_statistics(save_statistics, own, features.protocol)
    return {"figures": figures, "protocol": protocol}
