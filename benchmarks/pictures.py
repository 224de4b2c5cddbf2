"""Pictures of results as PNG files of 256 colours, which look the same and take a third of the space."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ulzoo.files.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save a picture as PNG."""
    palette = picture.convert("RGB").quantize(256)
    write_atomically(path, lambda temporary: palette.save(temporary, format="PNG", optimize=True))


def save_figure(figure: "Figure", path: Path, *, dpi: int = 140) -> None:
    """Save a figure of matplotlib as PNG."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    save_picture(Image.open(content), path)
