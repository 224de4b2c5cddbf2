"""No encoder at all: the latent is x itself, for pixel diffusion."""

from torch import Tensor, nn


class IdentityEncoder(nn.Module):
    """Pixel diffusion: z_clean = x, and decoding gives z back as it is, so that the base samples x.

    The baseline of the paper's text-to-image comparison (Table 1) on the same code. It has neither parameters nor keys;
    a spec has `prior: null` and `decoder: null` beside it.

    Raises:
        ValueError: the latent has not the data's own channels and grid.
    """

    def __init__(self, size: tuple[int, ...], in_channels: int, out_channels: int, downsample: tuple[int, ...]):
        super().__init__()
        if out_channels != in_channels:
            raise ValueError(
                f"latent.channels {out_channels} are not the data's {in_channels}, which the identity keeps: "
                f"set latent.channels to {in_channels}"
            )
        whole = [1] * len(size)
        if list(downsample) != whole:
            raise ValueError(
                f"latent.downsample {list(downsample)} is not the identity's: set latent.downsample to {whole}"
            )

    def forward(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        """z -> x, (B, C, *size)."""
        return z
