"""Decoding image files of many formats to square RGB images."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ulzoo.data.source import Unreadable

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "DDS")
"""Formats that are decoded. Pillow supports more, some of which run external programs (PostScript)."""


class UnreadableImage(Unreadable):
    """A file that cannot be decoded to RGB pixels."""


def read_rgb(file: str | Path | BinaryIO, name: object = None, *, fast: bool = False) -> Image.Image:
    """Decode a file as 8-bit RGB, as a viewer would display it; of an animation the first frame.

    The EXIF orientation is applied, transparency is composited over white, and 16-bit greyscale is scaled (not clipped)
    to 8 bits. CMYK, palettes and other modes are converted by Pillow. The format is detected from the content.

    Args:
        file: path, or open file.
        name: name of the file in messages; its path if None.
        fast: read every byte but decode JPEGs at an eighth of their size: a check, not an image to use.

    Raises:
        UnreadableImage: damaged, truncated, not an image, or a decompression bomb by Pillow's limit.
    """
    name = name or file
    try:
        with Image.open(file, formats=_supported_formats()) as image:
            if fast:
                image.draft(None, (1, 1))
            image.load()
            rotated = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            return to_rgb(ImageOps.exif_transpose(image) if rotated else image)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name}: {'an empty file' if _is_empty(file) else 'not an image'}") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError, ...
        raise UnreadableImage(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _is_empty(file: str | Path | BinaryIO) -> bool:
    """Whether a file has no bytes."""
    return (os.path.getsize(file) if isinstance(file, str | Path) else file.seek(0, os.SEEK_END)) == 0


@cache
def _supported_formats() -> list[str]:
    """The `FORMATS` that this build of Pillow can open."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Raises ValueError if the range of the pixels is unknown: float, or more than 16 bits."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's conversion to "RGB" would clip them to 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels of more than 16 bits have no known range")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("float pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def square(image: Image.Image, resolution: int) -> Image.Image:
    """Center-crop to a square and resize it to `resolution` × `resolution`.

    As in ADM (Dhariwal & Nichol 2021): box averages halve the image while both sides stay at least `resolution`, then a
    bicubic filter resizes it. Only the crop is resized, so that a long thin image costs no more than a square one.
    """
    if (halvings := (min(image.size) // resolution).bit_length() - 1) > 0:
        image = image.reduce(2**halvings)
    width, height = image.size
    if width == height == resolution:
        return image
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)


def adm_square(image: Image.Image, resolution: int) -> Image.Image:
    """Resize and center-crop to `resolution` × `resolution` exactly as ADM does; EDM2 calls it center-crop-dhariwal.

    Box averages halve the image while its shorter side is at least 2 · `resolution`; a bicubic filter then resizes it,
    up or down, so that the shorter side fits; the center is cropped (openai/guided-diffusion, `image_datasets.py`,
    `center_crop_arr`). Raises ValueError if the resized image would exceed Pillow's limit of pixels.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"too long and thin: {image.width}×{image.height} would become {width}×{height} pixels")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return image.crop((left, top, left + resolution, top + resolution))
