"""Feature networks by the names of their metrics."""

from pathlib import Path

import torch

from ulzoo.evaluation.features.dinov2 import DINOV2, dinov2
from ulzoo.evaluation.features.images import ImageFeatures, efficientnet_lite0, find_inception, inception_v3
from ulzoo.evaluation.features.lpips import TRUNKS, Lpips, lpips, shift_tolerant_lpips
from ulzoo.evaluation.features.videos import I3D, I3DLogits, TransNetV2Features, VideoFeatures


def load_features(
    metric: str,
    file: Path | None = None,
    *,
    sha256: str | None = None,
    download: bool = False,
    device: torch.device | str = "cpu",
) -> ImageFeatures | VideoFeatures:
    """The feature network of a Fréchet distance.

    Args:
        metric: "fid", "fd_dinov2" or "fd_efficientnet_lite0" for images, "fvd" or "fd_transnetv2" for clips.
        file, sha256, download: see `DetectorFile.find`; unused if the weights come with a package.
        device: the device of the network.

    Raises:
        ValueError: weights or packages are missing, or the file is not the expected one.
        OSError: the download failed.
    """
    if metric == "fd_efficientnet_lite0":
        return efficientnet_lite0(device)
    if metric == "fd_transnetv2":
        return TransNetV2Features(device)
    if metric == "fid":
        return inception_v3(*find_inception(file, sha256, download), device)
    if metric == "fd_dinov2":
        return dinov2(*DINOV2.find(file, sha256, download), device)
    assert metric == "fvd", metric
    return I3DLogits(*I3D.find(file, sha256, download), device)


def load_lpips(
    network: str, file: Path | None = None, *, download: bool = False, device: torch.device | str = "cpu"
) -> Lpips:
    """The network of an LPIPS.

    Args:
        network: "alex", "vgg", or "st_alex" for the shift-tolerant one, whose weights come with a package.
        file: torchvision's weights of the network; None for the file in torch's cache.
        download: download the file if it is not in the cache.
        device: the device of the network.

    Raises:
        ValueError: weights or packages are missing, or the file is not the expected one.
        OSError: the download failed.
    """
    if network == "st_alex":
        return shift_tolerant_lpips(device)
    return lpips(network, *TRUNKS[network].find(file, None, download), device)
