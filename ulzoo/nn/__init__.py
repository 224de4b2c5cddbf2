"""Networks, one family for any number of spatial dimensions: encoders and denoiser backbones. No losses."""

from ulzoo.nn.autoencoder_kl import DiffusersAutoencoder
from ulzoo.nn.conditioning import DenoiserInputs, NetworkConditions
from ulzoo.nn.encoders import IdentityEncoder, ResNetEncoder
from ulzoo.nn.uvit import UViT
from ulzoo.nn.vit import HierarchicalViT, ViT, ViTEncoder

__all__ = [
    "DenoiserInputs",
    "DiffusersAutoencoder",
    "HierarchicalViT",
    "IdentityEncoder",
    "NetworkConditions",
    "ResNetEncoder",
    "UViT",
    "ViT",
    "ViTEncoder",
]
