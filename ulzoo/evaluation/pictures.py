"""Labelled grids of images as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ulzoo.files import write_atomically
from ulzoo.pixels import to_uint8

Row = tuple[str, Tensor]  # label, images (n, C, H, W) in [-1, 1]


def save_grid(path: Path, rows: Sequence[Row], min_side: int = 96) -> None:
    """One row of pictures per entry, its label above; small images are enlarged by a whole factor, without smoothing.

    Args:
        path: a .png file, written atomically.
        rows: labels and images; rows may differ in length; an empty label takes no room.
        min_side: images are shown at least this large, in pixels.
    """
    side = max(rows[0][1].shape[-2:])
    scale = max(1, -(-min_side // side))
    height, width = (extent * scale for extent in rows[0][1].shape[-2:])
    gap, font = 4, ImageFont.load_default(size=14)
    label_heights = [22 if label else 0 for label, _ in rows]
    columns = max(len(images) for _, images in rows)
    sheet_width = columns * (width + gap) + gap
    sheet_width = max(sheet_width, max(int(font.getlength(label)) for label, _ in rows) + 2 * gap)
    sheet = Image.new("RGB", (sheet_width, sum(label_heights) + len(rows) * (height + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    top = gap
    for (label, images), label_height in zip(rows, label_heights, strict=True):
        draw.text((gap, top + 2), label, fill="black", font=font)
        top += label_height
        for j, image in enumerate(images):
            picture = _picture(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (gap + j * (width + gap), top))
        top += height + gap
    write_atomically(path, lambda aside: sheet.save(aside, format="PNG"))


def _picture(image: Tensor) -> Image.Image:
    pixels = to_uint8(image).permute(1, 2, 0).cpu().numpy()  # (H, W, C)
    return Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
