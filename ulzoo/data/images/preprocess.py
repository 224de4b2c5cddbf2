"""Images of users as tensors of a model, by the resizing and cropping of its training data, and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ulzoo.data.images.decode import read_rgb, square, to_rgb
from ulzoo.media.pixels import from_uint8, to_uint8

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents

Picture = str | Path | Image.Image | np.ndarray | Tensor


def preprocess(images: Picture | Sequence[Picture], model: "UnifiedLatents") -> Tensor:
    """Images of any size as x of a model, (B, 3, H, W) in [-1, 1] on its device.

    They are center-cropped to a square and resized as in training (`ulzoo.data.images.decode.square`).

    Args:
        images: one image or several: a path; a PIL image; an array, uint8 or float in [0, 1], (H, W), (H, W, 3 or 4) or
            (N, H, W, 3 or 4); or a tensor of the same values, (3, H, W) or (N, 3, H, W).
        model: an image model, such as `ulzoo.load` returns.

    Raises:
        ValueError: the model is not for RGB images, or an image has another shape, dtype or range.
        UnreadableImage: a file is damaged or no image.
    """
    shape = model.image_shape
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise ValueError(f"preprocess is for models of square RGB images, this is one of shape {shape}")
    pictures = [picture for item in _items(images) for picture in _pictures(item)]
    if not pictures:
        raise ValueError("there are no images")
    squares = [np.asarray(square(to_rgb(picture), shape[1])) for picture in pictures]
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)  # (B, 3, H, W)
    return from_uint8(pixels).contiguous().to(model.device)


def to_pil(x: Tensor) -> list[Image.Image]:
    """The images of x, (B, 3 or 1, H, W) or (3 or 1, H, W) in [-1, 1]."""
    if x.ndim not in (3, 4) or x.shape[-3] not in (1, 3) or not x.is_floating_point():
        raise ValueError(
            f"x must be floating point, of shape (B, 3, H, W) in [-1, 1], got {x.dtype} of shape {tuple(x.shape)}"
        )
    pixels = to_uint8(x.detach()).reshape(-1, *x.shape[-3:]).permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, C)
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels]


def _items(images: Picture | Sequence[Picture]) -> Sequence[Picture]:
    if isinstance(images, str | Path | Image.Image | np.ndarray | Tensor):
        return [images]
    if isinstance(images, Sequence):
        return images
    raise ValueError(f"images must be paths, PIL images, arrays or tensors, got {type(images).__name__}")


def _pictures(item: Picture) -> list[Image.Image]:
    """The images of one item of a sequence, of which an array may contain several."""
    if isinstance(item, str | Path):
        return [read_rgb(item)]
    if isinstance(item, Image.Image):
        return [item]
    if isinstance(item, Tensor):
        if item.ndim not in (3, 4) or item.shape[-3] not in (1, 3):
            raise ValueError(f"a tensor of images must have shape (3, H, W) or (N, 3, H, W), got {tuple(item.shape)}")
        return _pictures(item.detach().cpu().movedim(-3, -1).numpy())
    if isinstance(item, np.ndarray):
        if item.ndim == 4:
            return [picture for image in item for picture in _pictures(image)]
        return [_from_array(item)]
    raise ValueError(f"images must be paths, PIL images, arrays or tensors, got {type(item).__name__}")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ValueError(f"an array of an image must have shape (H, W), (H, W, 3) or (H, W, 4), got {array.shape}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # NaN included
            raise ValueError(f"float images must be in [0, 1], got {array.min():g} to {array.max():g}")
        array = (array.astype(np.float64) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"images must be uint8 in [0, 255] or float in [0, 1], got {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array))
