"""CLIP (Radford et al. 2021): how well images and captions agree, as the cosine of their embeddings."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ulzoo.evaluation.features.weights_file import DetectorFile, checked, read_tensors

HUB = "https://huggingface.co/openai"
CLIPS = {
    "vit_b32": DetectorFile(
        metric="clip_score",
        what="OpenAI's CLIP ViT-B/32 (577 MB)",
        url=f"{HUB}/clip-vit-base-patch32/resolve/3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268/pytorch_model.bin",
        sha256="a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
        cached="checkpoints/clip-vit-base-patch32.bin",
        alternative="vit_l14 is larger, and gives other scores",
        option="--clip-weights",
    ),
    "vit_l14": DetectorFile(
        metric="clip_score",
        what="OpenAI's CLIP ViT-L/14 (1.7 GB)",
        url=f"{HUB}/clip-vit-large-patch14/resolve/32bd64288804d66eefd0ccbe215aa642df71cc41/model.safetensors",
        sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        cached="checkpoints/clip-vit-large-patch14.safetensors",
        alternative="vit_b32 is smaller, and gives other scores",
        option="--clip-weights",
    ),
}
NAMES = (
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.embeddings.", ""),
    ("text_model.final_layer_norm", "ln_final"),
    ("text_model.encoder.layers", "transformer.resblocks"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.embeddings.patch_embedding", "visual.conv1"),
    ("vision_model.embeddings.", "visual."),
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("vision_model.encoder.layers", "visual.transformer.resblocks"),
    *((f"layer_norm{i}", f"ln_{i}") for i in (1, 2)),
    *(("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("self_attn.", "attn.")),
)
"""Parts of the tensors' names in the published files, which are of the library transformers, and in OpenAI's."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipNetwork:
    """A network that compares images with captions. Architecture and tokenizer are those of the package open_clip.

    Args:
        name: "vit_b32" or "vit_l14".
        file: its weights; see `CLIPS[name].find`.
        sha256: the hash that the file must have.
        device: the device of the network.

    Attributes:
        protocol: the network and its hash.

    Raises:
        ValueError: the package is not installed, there is no such file, or it has another hash or other weights.
    """

    def __init__(self, name: str, file: Path, sha256: str, device: torch.device | str = "cpu") -> None:
        if not find_spec("open_clip"):
            raise ValueError("clip_score needs the package open_clip_torch: pip install 'ulzoo[clip]'")
        from open_clip.model import build_model_from_openai_state_dict
        from open_clip.tokenizer import SimpleTokenizer

        what = CLIPS[name].what
        with checked(file, sha256, what) as digest:
            tensors = load_file(file) if file.suffix == ".safetensors" else read_tensors(file)
            network = build_model_from_openai_state_dict(_openai_names(tensors), cast_dtype=torch.float32)
        self.network = network.float().requires_grad_(False).eval().to(device)
        self.device, self.side = device, int(network.visual.image_size[0])
        self.tokenize, self.tokens = SimpleTokenizer(), int(network.context_length)
        self.protocol = {
            "network": what.partition(" (")[0],
            "network_sha256": digest,
            "features": "embeddings of images and captions, of unit length",
            "preprocessing": f"uint8 RGB; antialiased bicubic to {self.side}×{self.side}, rounded to uint8; CLIP's "
            f"mean and deviation; captions in lower case, cut to {self.tokens} tokens",
        }

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Cosines of uint8 images (B, C, H, W), with one or three channels, and their captions -> (B,)."""
        assert images.dtype == torch.uint8 and len(images) == len(captions), (images.dtype, images.shape, len(captions))
        x = images.to(self.device).expand(-1, 3, -1, -1).float()
        x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True).round().clamp(0, 255) / 255
        mean, std = (torch.tensor(values, device=self.device).reshape(-1, 1, 1) for values in (MEAN, STD))
        pictures = self.network.encode_image((x - mean) / std, normalize=True)
        tokens = self.tokenize(list(captions), context_length=self.tokens).to(self.device)
        return (pictures * self.network.encode_text(tokens, normalize=True)).sum(1)


def load_clip(
    name: str, file: Path | None = None, *, download: bool = False, device: torch.device | str = "cpu"
) -> ClipNetwork:
    """A CLIP network.

    Args:
        name: "vit_b32" or "vit_l14".
        file: the published weights; None for the file in torch's cache.
        download: download the file if it is not in the cache.
        device: the device of the network.

    Raises:
        ValueError: weights or packages are missing, or the file is not the published one.
        OSError: the download failed.
    """
    return ClipNetwork(name, *CLIPS[name].find(file, None, download), device)


def _openai_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of transformers by OpenAI's names, with queries, keys and values in one tensor."""
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for old, new in NAMES:
            name = name.replace(old, new)
        weights[name] = tensor
    for name in [name for name in weights if ".attn.q_proj." in name]:
        parts = [weights.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        weights[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    for ours, theirs in (("text_projection", "text_projection"), ("visual.proj", "visual_projection")):
        weights[ours] = weights.pop(f"{theirs}.weight").T
    return {name: tensor for name, tensor in weights.items() if not name.endswith("position_ids")}
