"""Labelled grids of images, and as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ulzoo.files.atomic import write_atomically
from ulzoo.media.pixels import to_uint8

GridRow = tuple[str, Tensor]  # label, images (n, C, H, W) in [-1, 1]

GAP = 4
FRAME = "#e8590c"


def save_grid(path: Path, rows: Sequence[GridRow], min_side: int = 96) -> None:
    """One row of pictures per entry, its label above; small images are enlarged by a whole factor, without smoothing.

    Args:
        path: a .png file, written atomically.
        rows: labels and images; rows may differ in length; an empty label takes no room.
        min_side: images are shown at least this large, in pixels.
    """
    sheet = grid(rows, min_side)
    write_atomically(path, lambda aside: sheet.save(aside, format="PNG"))


def grid(rows: Sequence[GridRow], min_side: int = 96, framed: Sequence[int] = ()) -> Image.Image:
    """The sheet that `save_grid` saves.

    Args:
        framed: how many of each row's first pictures stand in a coloured frame; none if left out.
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
    for (label, images), label_height, marked in zip(rows, label_heights, framed, strict=True):
        draw.text((GAP, top + 2), label, fill="black", font=font)
        top += label_height
        if marked:
            draw.rectangle((1, top - GAP + 1, marked * (width + GAP) + GAP - 2, top + height + GAP - 2), fill=FRAME)
        for j, image in enumerate(images):
            picture = _picture(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (GAP + j * (width + GAP), top))
        top += height + GAP
    return sheet


def _picture(image: Tensor) -> Image.Image:
    pixels = to_uint8(image).permute(1, 2, 0).cpu().numpy()  # (H, W, C)
    return Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
