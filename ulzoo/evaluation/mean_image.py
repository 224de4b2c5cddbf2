"""The mean training image, the reconstruction that needs no latent: a PSNR below its own says that nothing was learned.

It is computed once, after training, and stored with the metrics, so that an evaluation needs no training data.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ulzoo.data import Source
from ulzoo.data.source import Unreadable
from ulzoo.media.pixels import from_uint8, psnr

EXAMPLES = 256  # from which the mean is computed
MAX_SIDE = 64  # pixels; the mean of many images is smooth


@dataclass(frozen=True)
class MeanImage:
    """The mean of training images, or of the frames of training clips.

    Attributes:
        pixels: uint8 (C, h, w), of at most 64 pixels a side; larger images are compared with its enlargement.
        examples: the number of images or clips.
    """

    pixels: Tensor
    examples: int

    @classmethod
    def of(cls, source: Source) -> "MeanImage | None":
        """The mean of at most 256 examples spread evenly over a source; None if none of them can be read."""
        total, count = torch.zeros(()), 0
        for index in sorted({i * len(source) // EXAMPLES for i in range(EXAMPLES)}):
            try:
                pixels = source[index].pixels.double()
            except Unreadable:
                continue
            total = total + (pixels.mean(1) if pixels.ndim == 4 else pixels)
            count += 1
        if not count:
            return None
        height, width = (min(side, MAX_SIDE) for side in total.shape[-2:])
        mean = F.interpolate((total / count)[None], (height, width), mode="area")[0]
        return cls(mean.round().byte(), count)

    @classmethod
    def from_dict(cls, data: object, channels: int) -> "MeanImage | None":
        """What `to_dict` returned, from a file that may contain anything; None if it is no mean image."""
        try:
            assert isinstance(data, Mapping)
            shape, examples = [int(extent) for extent in data["shape"]], int(data["examples"])
            content = bytearray(base64.b64decode(data["pixels"], validate=True))
            assert len(shape) == 3 and shape[0] == channels and all(0 < side <= MAX_SIDE for side in shape[1:])
            pixels = torch.frombuffer(content, dtype=torch.uint8).reshape(shape)
        except (AssertionError, KeyError, TypeError, ValueError, RuntimeError, OverflowError, binascii.Error):
            return None
        return cls(pixels, examples)

    def to_dict(self) -> dict[str, Any]:
        """Number of examples, shape and pixels, ready for JSON."""
        content = base64.b64encode(self.pixels.contiguous().numpy().tobytes()).decode()
        return {"examples": self.examples, "shape": list(self.pixels.shape), "pixels": content}

    @property
    def protocol(self) -> dict[str, Any]:
        """The protocol field of its PSNR."""
        digest = hashlib.sha256(self.pixels.contiguous().numpy().tobytes()).hexdigest()
        return {"split": "train", "examples": self.examples, "sha256": digest}

    def psnr(self, x: Tensor) -> Tensor:
        """Its PSNR to each image, (B,), as if it were the reconstruction; x is (B, C, H, W) in [-1, 1]."""
        mean = from_uint8(self.pixels)[None].to(x.device)
        if mean.shape[-2:] != x.shape[-2:]:
            mean = F.interpolate(mean, x.shape[-2:], mode="bilinear")
        return psnr(mean.expand(x.shape), x)
