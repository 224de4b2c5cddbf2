"""LPIPS: a distance between two images by a network's features, with channel weights fit to human judgement.

Zhang et al. 2018. The package `lpips` supplies the weights of the channels. Its own class would download the network
without checking a hash, and unpickle files; the network is therefore built here.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.evaluation.features.weights_file import DetectorFile, checked, read_tensors
from ulzoo.media.pixels import from_uint8, to_uint8

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # from [-1, 1] to the networks' training data
ALTERNATIVE = "st_alex is a distance whose weights come with a package: pip install 'ulzoo[offline-metrics]'"

TRUNKS = {
    "alex": DetectorFile(
        metric="lpips_alex",
        what="torchvision's AlexNet (233 MB)",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        cached="checkpoints/alexnet-owt-7be5be79.pth",  # as in torchvision
        alternative=ALTERNATIVE,
        option="--lpips-weights",
    ),
    "vgg": DetectorFile(
        metric="lpips_vgg",
        what="torchvision's VGG-16 (528 MB)",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        cached="checkpoints/vgg16-397923af.pth",
        alternative=ALTERNATIVE,
        option="--lpips-weights",
    ),
}
HEADS_SHA256 = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}
SHIFT_TOLERANT_SHA256 = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"


class Lpips(nn.Module):
    """Squared distance between features of unit length, weighted by channel and averaged over positions.

    Args:
        name: name of the metric.
        layers: layers of the network.
        taps: indices of the layers whose outputs are compared.
        weights: for each of them, the weights of its channels, (C_k,).
        protocol: the network and its hashes.
        min_side: smallest side of an image of which the last layer has an output.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        name: str,
        layers: nn.Sequential,
        taps: Sequence[int],
        weights: Sequence[Tensor],
        protocol: dict[str, str],
        min_side: int,
    ) -> None:
        super().__init__()
        self.name, self.protocol, self.min_side = name, protocol, min_side
        self.layers, self.taps = layers[: max(taps) + 1], frozenset(taps)
        self.weights = nn.ParameterList([weight.reshape(-1) for weight in weights])
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(-1, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).reshape(-1, 1, 1))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of uint8-rounded images: x and y (B, C, H, W) in [-1, 1], with one or three channels -> (B,)."""
        assert x.shape == y.shape and x.shape[1] in (1, 3), (x.shape, y.shape)
        images = from_uint8(to_uint8(torch.cat([x, y]))).expand(-1, 3, -1, -1)
        h = (images - self.shift) / self.scale
        distance, weights = torch.zeros(len(x), device=h.device), iter(self.weights)
        for number, layer in enumerate(self.layers):
            h = layer(h)
            if number in self.taps:
                unit = h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10)  # (2B, C_k, h, w)
                a, b = unit.chunk(2)
                distance = distance + torch.einsum("bchw,c->bhw", (a - b).square(), next(weights)).mean((1, 2))
        return distance


def lpips(network: str, file: Path, sha256: str, device: torch.device | str = "cpu") -> Lpips:
    """LPIPS version 0.1 by AlexNet or VGG-16, with the same values as the package `lpips`.

    Args:
        network: "alex" or "vgg".
        file: torchvision's weights of that network; see `TRUNKS[network].find`.
        sha256: the hash that the file must have.
        device: the device of the network.

    Raises:
        ValueError: there is no such file, it has another hash or other weights, or the package is not installed.
    """
    from torchvision.models import alexnet, vgg16  # takes two seconds

    heads_file = _package("lpips", f"lpips_{network}", "lpips") / "weights" / "v0.1" / f"{network}.pth"
    with checked(file, sha256, TRUNKS[network].what) as digest, torch.device("meta"):
        layers, taps = {"alex": (alexnet, (1, 4, 7, 9, 11)), "vgg": (vgg16, (3, 8, 15, 22, 29))}[network]
        features = layers().features
        features.load_state_dict(_strip_prefix("features.", read_tensors(file)), assign=True)
    with checked(heads_file, HEADS_SHA256[network], "LPIPS's weights of channels") as heads_digest:
        weights = [read_tensors(heads_file)[f"lin{k}.model.1.weight"] for k in range(5)]
    protocol = {
        "network": f"{TRUNKS[network].what.partition(' (')[0]}, package lpips's weights of channels, version 0.1",
        "network_sha256": digest,
        "channels_sha256": heads_digest,
    }
    return Lpips(f"lpips_{network}", features, taps, weights, protocol, {"alex": 31, "vgg": 16}[network]).to(device)


def shift_tolerant_lpips(device: torch.device | str = "cpu") -> Lpips:
    """ST-LPIPS by AlexNet (Ghildyal & Liu 2022), whose weights come with a package.

    It is LPIPS by a network that is less sensitive to shifts by a pixel, and not comparable with LPIPS.

    Args:
        device: the device of the network.

    Raises:
        ValueError: the package is not installed, or has other weights.
    """
    file = _package("stlpips_pytorch", "st_lpips_alex", "offline-metrics") / "weights/vST0.0/alex_shift_tolerant.pth"
    with checked(file, SHIFT_TOLERANT_SHA256, "ST-LPIPS's weights") as digest, torch.device("meta"):
        features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, padding=2), _BlurredStride(64), nn.ReLU()),
            *(nn.MaxPool2d(3, 1), _BlurredStride(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
            *(nn.MaxPool2d(3, 1), _BlurredStride(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )
        tensors = read_tensors(file)
        features.load_state_dict(_strip_prefix(r"net\.slice\d\.", tensors), assign=True)
        weights = [tensors[f"lin{k}.model.1.weight"] for k in range(5)]
    protocol = {"network": "shift-tolerant AlexNet, package stlpips-pytorch", "network_sha256": digest}
    return Lpips("st_lpips_alex", features, (2, 6, 10, 12, 14), weights, protocol, 21).to(device)


class _BlurredStride(nn.Module):
    """Anti-aliased downsampling by 2: every second pixel of an image, reflected at the border, after a 3×3 blur."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))  # loaded from the file

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


def _strip_prefix(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors whose names begin with a match of the regular expression `prefix`, by the rest of their names."""
    return {name[match.end() :]: tensors[name] for name in tensors if (match := re.match(prefix, name))}


def _package(module: str, metric: str, extra: str) -> Path:
    """The folder of a package, without importing it."""
    if not (spec := find_spec(module)):
        raise ValueError(f"{metric} needs the package {module.replace('_', '-')}: pip install 'ulzoo[{extra}]'")
    assert spec.origin is not None
    return Path(spec.origin).parent
