"""From an image file of any kind to a square of RGB pixels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ulzoo.data.source import Unreadable

KINDS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "DDS")
"""What is decoded; Pillow knows more, of which some run a program, as PostScript does."""


class UnreadableImage(Unreadable):
    """A file that cannot be made into RGB pixels."""


def read_rgb(file: str | Path | BinaryIO, name: object = None, *, fast: bool = False) -> Image.Image:
    """The file's image as 8-bit RGB, as a viewer would show it; of an animation the first frame.

    It is turned upright by its EXIF orientation; transparency is laid over white; 16-bit grey is scaled, not cut, to
    8 bits; CMYK, palettes and the rest go through Pillow's conversion. What kind of image it is, its content tells.

    Args:
        file: its path, or its content.
        name: what messages call it; its path if None.
        fast: read every byte but let JPEGs come out at an eighth of their size: a check, not an image to use.

    Raises:
        UnreadableImage: damaged, truncated, not an image, or a decompression bomb by Pillow's limit.
    """
    name = name or file
    try:
        with Image.open(file, formats=_kinds()) as image:
            if fast:
                image.draft(None, (1, 1))
            image.load()
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            return to_rgb(ImageOps.exif_transpose(image) if turned else image)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name}: not an image") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError, ...
        raise UnreadableImage(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error


@cache
def _kinds() -> list[str]:
    """Those of `KINDS` that this Pillow can open."""
    Image.init()
    return [kind for kind in KINDS if kind in Image.OPEN]


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB. Raises ValueError on pixels without a known range: float, or integers of over 16 bits."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's "RGB" would cut them at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels of over 16 bits have no known range")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("float pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def square(image: Image.Image, resolution: int) -> Image.Image:
    """The image's middle at `resolution` × `resolution`: its shorter side fills the square.

    As in ADM (Dhariwal & Nichol 2021): halved by box averages while both sides stay at least as large as asked, then
    bicubic. Only the crop is ever resized, so that a long thin image costs no more than a square one.
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
    """The image's middle at `resolution` × `resolution`, exactly by ADM's rule, which EDM2 calls center-crop-dhariwal.

    Halved by box averages while its shorter side is at least twice as long as asked, resized by a bicubic so that the
    shorter side fits, enlarged if need be, then cropped (openai/guided-diffusion, `image_datasets.py`,
    `center_crop_arr`). Raises ValueError where the resized image would be beyond Pillow's limit of pixels.
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
