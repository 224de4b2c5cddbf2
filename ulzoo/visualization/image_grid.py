"""Labelled grids of images as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ulzoo.files.atomic import write_atomically
from ulzoo.media.pixels import to_uint8

GridRow = tuple[str, Tensor]  # label, images (n, C, H, W) in [-1, 1]

GAP = 4
FRAME_COLOUR = "#e8590c"


def save_grid(path: Path, rows: Sequence[GridRow], min_side: int = 96) -> None:
    """Save one row of images per entry, below its label; small images are scaled by an integer, without smoothing.

    Args:
        path: a .png file, written atomically.
        rows: labels and images; rows may differ in length; an empty label takes no space.
        min_side: smallest side in pixels at which images are shown.
    """
    sheet = grid(rows, min_side)
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))


def grid(rows: Sequence[GridRow], min_side: int = 96, framed: Sequence[int] = ()) -> Image.Image:
    """The grid that `save_grid` saves.

    Args:
        rows, min_side: see `save_grid`.
        framed: for each row, the number of first images inside a coloured frame; () for no frames.
    """
    framed = framed or [0] * len(rows)
    side = max(rows[0][1].shape[-2:])
    scale = max(1, -(-min_side // side))
    height, width = (extent * scale for extent in rows[0][1].shape[-2:])
    font = ImageFont.load_default(size=14)
    label_heights = [22 if label else 0 for label, _ in rows]
    columns = max(len(images) for _, images in rows)
    sheet_width = columns * (width + GAP) + GAP
    sheet_width = max(sheet_width, max(int(font.getlength(label)) for label, _ in rows) + 2 * GAP)
    sheet = Image.new("RGB", (sheet_width, sum(label_heights) + len(rows) * (height + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for (label, images), label_height, in_frame in zip(rows, label_heights, framed, strict=True):
        draw.text((GAP, top + 2), label, fill="black", font=font)
        top += label_height
        if in_frame:
            right, bottom = in_frame * (width + GAP) + GAP - 2, top + height + GAP - 2
            draw.rectangle((1, top - GAP + 1, right, bottom), fill=FRAME_COLOUR)
        for column, image in enumerate(images):
            scaled = _to_pillow(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(scaled, (GAP + column * (width + GAP), top))
        top += height + GAP
    return sheet


def _to_pillow(image: Tensor) -> Image.Image:
    pixels = to_uint8(image).permute(1, 2, 0).cpu().numpy()  # (H, W, C)
    return Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
