"""diffusers' `AutoencoderKL` as a frozen encoder and decoder."""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ulzoo.files.atomic import sha256
from ulzoo.nn.grid import divide

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"

SPEC_KEYS = {  # name in config.json -> key of a spec
    "block_out_channels": "block_out_channels",
    "latent_channels": "latent.channels",
    "layers_per_block": "layers_per_block",
    "mid_block_add_attention": "mid_block_add_attention",
    "norm_num_groups": "norm_groups",
    "scaling_factor": "scaling_factor",
    "shift_factor": "shift_factor",
    "use_post_quant_conv": "use_post_quant_conv",
    "use_quant_conv": "use_quant_conv",
}
IGNORED = {"sample_size", "force_upcast"}  # hints for diffusers' pipelines, without effect on the function
OLD_NAMES = {  # of the attention's layers, in files as old as the Stable Diffusion autoencoders
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


class DiffusersAutoencoder(nn.Module):
    """A frozen autoencoder of the package diffusers (`AutoencoderKL`): a base model is trained on its latents.

    z_clean is the posterior's mean, shifted and scaled to about unit variance; `decode` undoes both, so no other code
    needs the factors. It is the baseline of the paper's text-to-image comparison (Table 1), whose latents are those of
    Stable Diffusion; a spec sets `prior: null` and `decoder: null` with it.

    The keys describe the network, so that a spec can be measured without the files; `load_pretrained` reads the weights
    and refuses files of another network. The defaults are Stable Diffusion's autoencoder (arXiv 2112.10752), with 4
    latent channels at 8×8. Nothing is downloaded, and a pickled file is never read.

    Args:
        path: folder that diffusers' `save_pretrained` wrote: config.json and diffusion_pytorch_model.safetensors.
        sha256: of the weights' file in hex, checked if given.
        block_out_channels: width of each level, finest first; the grid is halved between two levels.
        layers_per_block: residual blocks of a level of the encoder; the decoder's levels have one more.
        norm_groups: groups of every group norm; `norm_num_groups` in config.json.
        mid_block_add_attention: attention in the middle of encoder and decoder.
        use_quant_conv: a 1×1 convolution after the encoder.
        use_post_quant_conv: a 1×1 convolution before the decoder.
        scaling_factor: factor that the shifted mean is multiplied by.
        shift_factor: value that is subtracted from the mean before.

    Raises:
        ValueError: the package is missing, or keys that do not fit.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        downsample: tuple[int, ...],
        *,
        path: str,
        sha256: str | None = None,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_groups: int = 32,
        mid_block_add_attention: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        scaling_factor: float = 0.18215,
        shift_factor: float = 0.0,
    ):
        super().__init__()
        if not block_out_channels or norm_groups < 1 or any(width % norm_groups for width in block_out_channels):
            raise ValueError(f"norm_groups {norm_groups} does not divide all of {list(block_out_channels)}")
        if layers_per_block < 1:
            raise ValueError(f"layers_per_block must be at least 1, not {layers_per_block}")
        if scaling_factor <= 0:
            raise ValueError(f"scaling_factor must be above 0, not {scaling_factor:g}")
        levels = len(block_out_channels)
        if list(downsample) != [2 ** (levels - 1)] * 2:
            raise ValueError(
                f"latent.downsample {list(downsample)} is not that of an autoencoder of images with {levels} levels: "
                f"set latent.downsample to {[2 ** (levels - 1)] * 2}"
            )
        divide(size, downsample, "latent.downsample")
        self.folder = Path(path).expanduser()
        self.sha256 = sha256
        self.scale, self.shift = scaling_factor, shift_factor
        self.autoencoder = _autoencoder_kl()(
            in_channels=in_channels,
            out_channels=in_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            latent_channels=out_channels,
            norm_num_groups=norm_groups,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            use_quant_conv=use_quant_conv,
            use_post_quant_conv=use_post_quant_conv,
            mid_block_add_attention=mid_block_add_attention,
        )
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.autoencoder.encode(x).latent_dist.mean
        return (mean - self.shift) * self.scale  # (B, c, *size / downsample)

    def decode(self, z: Tensor) -> Tensor:
        """z -> x, (B, C, *size), about in [-1, 1]: the caller clamps."""
        return self.autoencoder.decode(z / self.scale + self.shift).sample

    def load_pretrained(self) -> None:
        """Read the weights from the folder `path`.

        Raises:
            ValueError: no such files, files of another network than the keys say, damaged ones, or another SHA-256.
        """
        if not self.folder.is_dir():
            raise ValueError(f"path {self.folder}: no such folder; it should be one that save_pretrained wrote")
        if differences := list(self._differences(_read_config(self.folder / CONFIG))):
            raise ValueError("; ".join(differences))
        weights = self.folder / WEIGHTS
        if not weights.is_file():
            pickles = sorted(file.name for file in self.folder.glob("*.bin"))
            reason = f", and {pickles[0]} is a pickle, which is never read" if pickles else ""
            raise ValueError(f"path {self.folder}: has no {WEIGHTS}{reason}; save_pretrained of diffusers writes one")
        if self.sha256 is not None and (digest := sha256(weights)) != self.sha256.lower():
            raise ValueError(f"sha256 {self.sha256} is not that of {weights}, {digest}")
        try:
            tensors = safetensors.torch.load_file(weights)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"path {self.folder}: {WEIGHTS} is cut short or damaged ({error})") from None
        tensors = {_renamed(name): tensor for name, tensor in tensors.items()}
        expected = self.autoencoder.state_dict()
        for name in sorted(tensors.keys() | expected.keys()):
            shape, stored = (tuple(of[name].shape) if name in of else None for of in (expected, tensors))
            if shape != stored:
                raise ValueError(
                    f"path {self.folder}: {WEIGHTS} does not fit config.json: {name} should be "
                    f"{'missing' if shape is None else shape}, it is {'missing' if stored is None else stored}"
                )
        self.autoencoder.load_state_dict(tensors)

    def _differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Messages where config.json describes another network than the keys; what it omits has its default."""
        signature = inspect.signature(type(self.autoencoder).__init__).parameters
        for name, value in self.autoencoder.config.items():
            if name not in signature or name in IGNORED:
                continue
            stored = config.get(name, signature[name].default)
            value, stored = (list(side) if isinstance(side, tuple | list) else side for side in (value, stored))
            if name == "shift_factor":
                stored = stored or 0.0
            if value == stored:
                continue
            file = self.folder / CONFIG
            if name in ("in_channels", "out_channels"):
                yield f"the data has {value} channels, {file} says {name} {stored}"
            elif key := SPEC_KEYS.get(name):
                yield f"{key} is {value}, {file} says {name} {stored}: set {key} to that"
            else:
                yield f"path {self.folder}: {CONFIG} says {name} {stored}, only {value} is supported"


def _autoencoder_kl() -> Any:
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise ValueError(
            "kind diffusers_autoencoder needs the package diffusers: pip install 'ulzoo[diffusers]'"
        ) from None
    return AutoencoderKL


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"path {file.parent}: has no {file.name}; save_pretrained of diffusers writes one")
    try:
        config = json.loads(file.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"path {file.parent}: {file.name} is not JSON: {error}") from None
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "AutoencoderKL":
        raise ValueError(f"path {file.parent}: {file.name} is of {kind or 'nothing known'}, not of an AutoencoderKL")
    return config


def _renamed(name: str) -> str:
    """The name of a weight in current diffusers; older files have other names for the attention's layers."""
    head, _, leaf = name.rpartition(".")
    block, _, layer = head.rpartition(".")
    return f"{block}.{OLD_NAMES[layer]}.{leaf}" if ".attentions." in name and layer in OLD_NAMES else name
