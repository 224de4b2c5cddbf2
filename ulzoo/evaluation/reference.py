"""Mean and covariance of a data set's features, computed once and cached; `.npz` files shared with other evaluators.

The layouts are those of ADM (Dhariwal & Nichol 2021). Statistics, as EDM and EDM2 (Karras et al.) and pytorch-fid read
them too, are arrays `mu` (D,) and `sigma` (D, D), the covariance divided by N - 1. Further arrays, such as ADM's `mu_s`
and `sigma_s` for sFID or EDM2's for other images, are ignored. EDM2's `.pkl` files are pickles, which are not opened.
Samples are one array `arr_0`, uint8 (N, H, W, 3).
"""

import hashlib
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulzoo.data import Source
from ulzoo.data.fingerprint import fingerprint
from ulzoo.evaluation.collected import ExampleValues
from ulzoo.evaluation.config import EvaluationConfig
from ulzoo.evaluation.execution import DEFAULT_EXECUTION, Execution, shared_batches
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.frechet import FeatureStatistics, Gaussian, Moments
from ulzoo.files.atomic import sha256, warned_of_errors, write_atomically
from ulzoo.media.pixels import to_uint8


@dataclass(frozen=True)
class Reference:
    """The statistics that images are compared with.

    Attributes:
        gaussian: mean and covariance of the features.
        images: number of images they were computed from; None if the file does not say.
        sha256: hash of the images' pixels, or of the file.
        features: (N, D), if they were kept.
        fingerprint: the identity of the images' fingerprint; None if the statistics are from a file.
    """

    gaussian: Gaussian
    images: int | None
    sha256: str
    features: Tensor | None = None
    fingerprint: dict[str, Any] | None = None


def read_statistics(path: Path, dimension: int) -> Reference:
    """Read the mean and covariance in a file.

    Raises:
        ValueError: there is no such file, or it is a pickle, has other arrays or belongs to another network.
    """
    if path.suffix.lower() == ".pkl":
        raise ValueError(
            f"{path}: a pickle can run any code and is not opened; where you trust it, convert it by "
            "np.savez('stats.npz', **pickle.load(open(FILE, 'rb'))['fid']) (or 'fd_dinov2')"
        )
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("mu", "sigma", "ulzoo") if name in file.files}
            names = ", ".join(file.files)
        mean, covariance = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("mu", "sigma"))
        description = json.loads(str(arrays.get("ulzoo", "{}")))
    except KeyError:
        raise ValueError(f"{path}: has no arrays mu and sigma, but {names or 'nothing'}") from None
    except (OSError, zipfile.BadZipFile, EOFError, AttributeError, TypeError, ValueError):
        raise ValueError(f"{path}: not an .npz file of plain arrays mu and sigma") from None
    if mean.shape != (dimension,) or covariance.shape != (dimension, dimension):
        raise ValueError(
            f"{path}: mu has shape {tuple(mean.shape)} and sigma {tuple(covariance.shape)}: "
            f"not of a network of {dimension} features"
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError(f"{path}: contains numbers that are not finite")
    return Reference(Moments(mean, covariance), description.get("images"), description.get("sha256") or sha256(path))


def write_statistics(path: Path, reference: Reference, network: dict[str, Any]) -> None:
    """Write statistics for `read_statistics` and other programs.

    A further array, `ulzoo`, contains the number and hash of the images and the network's protocol as JSON.
    """
    description = {"images": reference.images, "sha256": reference.sha256, **network}
    gaussian = reference.gaussian
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            text = np.array(json.dumps(description, ensure_ascii=False))
            np.savez(file, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy(), ulzoo=text)

    write_atomically(path, write)


def reference_statistics(
    source: Source,
    features: ImageFeatures,
    config: EvaluationConfig,
    *,
    keep_features: bool = False,
    cache: Path | None = None,
    execution: Execution = DEFAULT_EXECUTION,
) -> Reference:
    """The statistics of the first images of a source, from the cache if they were computed before.

    A data set's name in the cache is a hash of the network, the data section, the split and the fingerprint of the
    images, with sizes and times of their files, so that images that were replaced or repaired are read again.

    Args:
        source: the images.
        features: the network.
        config: data section, split and limit of the source, and the batch size.
        keep_features: also return the features themselves, which are not cached.
        cache: the folder of the cache; a folder in torch's cache (TORCH_HOME) if None.
        execution: processes that share the work, and progress; all of them get the statistics. The main process reads
            all images, for their hash.

    Raises:
        ValueError: there are fewer than two images.
    """
    count = config.count(source)
    if count < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 images, not {count}")
    folder = cache or Path(torch.hub.get_dir()) / "ulzoo" / "statistics"
    images = fingerprint(source, count)
    identity = {
        "network": features.protocol,
        "data": config.data,
        "split": config.split,
        "fingerprint": images.to_dict(),
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = folder / f"{features.name}-{name[:32]}.npz"
    processes = execution.processes
    cached = read_statistics(path, features.dimension) if path.exists() and not keep_features else None
    cached = processes.all_gather(cached)[0]
    if cached is not None:
        execution.on_progress(count)
        return replace(cached, fingerprint=images.identity)
    statistics, digest, kept = FeatureStatistics(features.dimension), hashlib.sha256(), ExampleValues()
    for batch, own in shared_batches(source, config.examples_per_batch(), config.limit, processes, main_reads_all=True):
        pixels = to_uint8(batch["x"])
        if processes.is_main:
            digest.update(pixels.contiguous().numpy().data)
        if own:
            vectors, _ = features(pixels)
            statistics.add(vectors)
            if keep_features:
                kept.add("features", vectors)
        execution.on_progress(batch["images"])
    if processes.world_size > 1:
        statistics.restore(processes.all_gather(statistics.state()))
        kept.restore(processes.all_gather(kept.state()))
    moments = Moments(statistics.mean, statistics.covariance)
    sha256 = processes.all_gather(digest.hexdigest())[0]
    vectors = kept.rows("features").float() if keep_features else None
    reference = Reference(moments, statistics.count, sha256, vectors, images.identity)
    if processes.is_main:
        with warned_of_errors(f"{path}: the statistics are not kept"):
            write_statistics(path, reference, features.protocol)
    return reference
