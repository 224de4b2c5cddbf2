"""Mean and covariance of a data set's features: computed once, kept by hash, and exchanged as `.npz`.

The layout is what ADM (Dhariwal & Nichol 2021), EDM and EDM2 (Karras et al.) and pytorch-fid read: arrays `mu` (D,) and
`sigma` (D, D), the covariance divided by N - 1. Files of theirs with further arrays, ADM's `mu_s` and `sigma_s` of sFID
or EDM2's of other images, are read for these two. EDM2's `.pkl` files are pickles, which are not opened.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulzoo.data import Source, in_order
from ulzoo.data.source import Unreadable
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.frechet import FeatureStatistics, Gaussian, Moments
from ulzoo.files.atomic import sha256, write_atomically
from ulzoo.media.pixels import to_uint8

PROBED = 64  # images whose pixels are part of a set's name in the cache


@dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    Attributes:
        gaussian: of the features.
        images: how many it was made of; None where the file does not say.
        sha256: of the images' pixels, or of the file.
        features: (N, D), where they were kept.
    """

    gaussian: Gaussian
    images: int | None
    sha256: str
    features: Tensor | None = None


def read_statistics(path: Path, dimension: int) -> Reference:
    """A file's mean and covariance.

    Raises:
        ValueError: no such file, a pickle, other arrays, or those of another network.
    """
    if path.suffix.lower() == ".pkl":
        raise ValueError(
            f"{path}: a pickle may run anything and is not opened; in a place where you trust it, "
            "np.savez('stats.npz', **pickle.load(open(FILE, 'rb'))['fid']) (or 'fd_dinov2') makes a file of it that is"
        )
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("mu", "sigma", "ulzoo") if name in file.files}
            names = ", ".join(file.files)
        mean, covariance = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("mu", "sigma"))
        about = json.loads(str(arrays.get("ulzoo", "{}")))
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
        raise ValueError(f"{path}: holds numbers that are not finite")
    return Reference(Moments(mean, covariance), about.get("images"), about.get("sha256") or sha256(path))


def write_statistics(path: Path, reference: Reference, network: dict[str, Any]) -> None:
    """For `read_statistics` and other people's scripts; what it is of stands in a further array, `ulzoo`, as JSON."""
    about = {"images": reference.images, "sha256": reference.sha256, **network}
    gaussian = reference.gaussian
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(aside: Path) -> None:
        with open(aside, "wb") as file:
            text = np.array(json.dumps(about, ensure_ascii=False))
            np.savez(file, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy(), ulzoo=text)

    write_atomically(path, write)


def reference_statistics(
    source: Source,
    features: ImageFeatures,
    *,
    data: dict[str, Any],
    split: str,
    limit: int | None = None,
    batch_size: int = 64,
    keep_features: bool = False,
    cache: Path | None = None,
    on_image: Callable[[int], None] = lambda done: None,
) -> Reference:
    """Of a source's first images, from the cache if they were there before.

    A set's name in the cache is a hash of the network, the data section, the split, the number of images, and the
    pixels and labels of 64 images spread evenly over it.

    Args:
        data, split: of the source.
        limit: how many images; all if None.
        keep_features: also have the features themselves, which are not cached.
        cache: a folder; torch's cache (TORCH_HOME) if None.
        on_image: told how many images are done.

    Raises:
        ValueError: fewer than two images.
    """
    count = min(limit or len(source), len(source))
    if count < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 images, not {count}")
    folder = cache or Path(torch.hub.get_dir()) / "ulzoo" / "statistics"
    told = {"network": features.protocol, "data": data, "split": split, "images": count, "probe": _probe(source, count)}
    name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    path = folder / f"{features.name}-{name[:32]}.npz"
    if path.exists() and not keep_features:
        on_image(count)
        return read_statistics(path, features.dimension)
    statistics, digest, kept = FeatureStatistics(features.dimension), hashlib.sha256(), []
    for batch in in_order(source, batch_size, limit):
        pixels = to_uint8(batch["x"])
        digest.update(pixels.contiguous().numpy().data)
        found, _ = features(pixels)
        statistics.add(found)
        if keep_features:
            kept.append(found.float().cpu())
        on_image(batch["images"])
    moments = Moments(statistics.mean, statistics.covariance)
    reference = Reference(moments, statistics.count, digest.hexdigest(), torch.cat(kept) if kept else None)
    write_statistics(path, reference, features.protocol)
    return reference


def _probe(source: Source, count: int) -> str:
    digest = hashlib.sha256()
    for index in sorted({i * count // PROBED for i in range(PROBED)}):
        try:
            sample = source[index]
        except Unreadable:
            digest.update(b"unreadable")
            continue
        digest.update(f"{sample.key} {sample.label}".encode())
        digest.update(sample.pixels.contiguous().numpy().data)
    return digest.hexdigest()
