"""What sources of images have in common that decode them as they are asked for."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ulzoo.data.images.decode import square
from ulzoo.data.source import DataContract, Source
from ulzoo.data.storage.class_folders import check_num_classes


class ImageSource(Source):
    """Squares of RGB with labels and captions; its `contract` is what `describe` says, label names aside."""

    @classmethod
    def describe(
        cls, *, resolution: int, num_classes: int | None, text_tokens: int | None, text_width: int | None, **_: object
    ) -> DataContract:
        """The contract of these keys, with `label_names` left to the disk.

        Raises ValueError on a number below 1, or one of `text_tokens` and `text_width` without the other.
        """
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, not {resolution}")
        check_num_classes(num_classes, "images")
        text = {"text_tokens": text_tokens, "text_width": text_width}
        for key, value in text.items():
            if value is None and any(text.values()):
                raise ValueError(f"{key} is missing: captions need both text_tokens and text_width")
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, or null for images without captions, not {value}")
        return DataContract(3, resolution, num_classes or 0, text_tokens=text_tokens or 0, text_width=text_width or 0)

    def pixels(self, image: Image.Image) -> Tensor:
        """An RGB image as the contract wants it: uint8 (3, H, W), colour by colour, so that stacks are fast."""
        side = self.contract.resolution
        colours = [colour.tobytes() for colour in square(image, side).split()]
        return torch.frombuffer(bytearray().join(colours), dtype=torch.uint8).reshape(3, side, side)
