"""DINOv2 features of images (Oquab et al. 2023), for the distance FD-DINOv2 (Stein et al. 2023)."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.features.weights_file import DetectorFile, checked, read_tensors

DINOV2 = DetectorFile(
    metric="fd_dinov2",
    what="DINOv2's ViT-L/14 (1.2 GB)",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    cached="checkpoints/dinov2_vitl14_pretrain.pth",  # as in torch.hub
    alternative="fd_efficientnet_lite0 is a distance whose weights come with a package",
)
SIDE, PATCH = 224, 14
NETWORK: dict[str, Any] = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Extractor(nn.Module):
    """uint8 images (B, 3, H, W) to the class token (B, D), after the last norm."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True) / 255
        mean, std = (torch.tensor(values, device=x.device).reshape(-1, 1, 1) for values in (MEAN, STD))
        return (self.network((x - mean) / std),)


def dinov2(file: Path, sha256: str = DINOV2.sha256, device: torch.device | str = "cpu") -> ImageFeatures:
    """The class token of DINOv2's ViT-L/14, on images resized as in EDM2 (Karras et al. 2024).

    The network is timm's with the published weights; torch-fidelity's extractor would download code.

    Args:
        file: the weights.
        sha256: the hash that the file must have.
        device: the device of the network.

    Raises:
        ValueError: there is no such file, or it has another hash or other weights.
    """
    from timm.models.vision_transformer import VisionTransformer

    with checked(file, sha256, DINOV2.what) as digest, torch.device("meta"):
        network = VisionTransformer(
            img_size=SIDE, patch_size=PATCH, init_values=1.0, num_classes=0, global_pool="token", **NETWORK
        )
        weights = {name: tensor for name, tensor in read_tensors(file).items() if name != "mask_token"}
        weights["pos_embed"] = _resize_positions(weights["pos_embed"], SIDE // PATCH)
        network.load_state_dict(weights, assign=True)
    network.requires_grad_(False).eval()
    protocol = {
        "network": "DINOv2 ViT-L/14, without registers",
        "network_sha256": digest,
        "features": f"{NETWORK['embed_dim']}, class token after the last norm",
        "preprocessing": f"uint8 RGB; antialiased bicubic to {SIDE}×{SIDE}, not rounded; ImageNet's mean and deviation",
    }
    return ImageFeatures(_Extractor(network).to(device), "fd_dinov2", protocol, NETWORK["embed_dim"])


def _resize_positions(embeddings: Tensor, side: int) -> Tensor:
    """Position embeddings, (1, 1 + n², D), for a grid of side² patches, (1, 1 + side², D).

    Bicubic, by a factor that is too large by 0.1/n, as in DINOv2's own code.
    """
    token, patches = embeddings[:, :1], embeddings[:, 1:]
    n = round(patches.shape[1] ** 0.5)
    grid = patches.reshape(1, n, n, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, scale_factor=(side + 0.1) / n, mode="bicubic")
    return torch.cat([token, resized.permute(0, 2, 3, 1).flatten(1, 2)], 1)
