"""Images that appear from their streams: what the model decodes from more and more bytes, as an animation."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ulzoo.files.atomic import write_atomically
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.visualization.image_grid import grid

FRAMES = 16
COLOURS = 128  # of a GIF
DURATION, LAST_DURATION = 180, 1500  # milliseconds


def check_progressive(path: Path) -> None:
    """Raise ValueError unless an animation is written under this name."""
    if path.suffix.lower() not in (".gif", ".webp"):
        raise ValueError(f"{path}: the animation is written as GIF or WebP; let the name end in .gif or .webp")


def save_progressive(path: Path, model: UnifiedLatents, streams: Sequence[bytes], *, steps: int | None = None) -> None:
    """Write an animation of the images of streams, all of one size, decoded from growing prefixes.

    Args:
        path: a .gif or .webp file, written atomically.
        model: the model that compressed them; of images.
        streams: the streams.
        steps: of the decoder; its own if None.

    Raises:
        ValueError: the streams cannot be decoded, or the model is of clips.
    """
    if model.contract.video:
        raise ValueError(f"{path}: streams of clips have no animation; leave out --progressive")
    if len(set(model.stream_sizes(streams))) != 1:
        raise ValueError(f"{path}: an animation is of images of one size")
    longest = max(map(len, streams))
    sheets = []
    for frame in range(1, FRAMES + 1):
        prefix = longest * frame // FRAMES
        x = model.decompress(streams, max_bits=8 * max(prefix, 1), steps=steps)
        rows = [x[i : i + 8] for i in range(0, len(x), 8)]
        title = f"{prefix} bytes, {8 * prefix / x[0, 0].numel():.3f} bits/pixel"
        sheets.append(grid([(title if i == 0 else "", row) for i, row in enumerate(rows)]))
    kind = path.suffix[1:].upper()
    if kind == "GIF":  # dithering would make the file ten times larger
        sheets = [sheet.quantize(COLOURS, dither=Image.Dither.NONE) for sheet in sheets]
    first, *rest = sheets
    durations = [DURATION] * len(rest) + [LAST_DURATION]
    write_atomically(
        path,
        lambda temporary: first.save(
            temporary, kind, save_all=True, append_images=rest, duration=durations, loop=0, lossless=True
        ),
    )
