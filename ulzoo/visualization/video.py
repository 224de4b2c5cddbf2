"""Clips as films that play everywhere, MP4 and animated WebP or GIF, and as contact sheets to print."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
from PIL import Image
from torch import Tensor

from ulzoo.files.atomic import write_atomically
from ulzoo.visualization.image_grid import GridRow, grid

CLIPS_A_ROW = 8
FRAMES_A_ROW = 16
CRF = "14"  # of H.264, where 0 is lossless and 23 the encoder's default
LARGEST = 16383  # pixels a side, of WebP; H.264's encoder takes about as many
BT709 = 1  # H.264's number for these primaries, curve and matrix


@dataclass(frozen=True)
class Clips:
    """Clips of one origin: the data, or a model.

    Attributes:
        title: written above them.
        clips: (n, C, T, H, W) in [-1, 1].
        given: how many of each clip's first frames were given to the model: they stand in a coloured frame.
        notes: a word on each clip, for the contact sheet.
    """

    title: str
    clips: Tensor
    given: int = 0
    notes: Sequence[str] = ()


Band = Sequence[Clips]  # clip i of each belongs together: the truth above what a model made of it


def save_contact_sheet(path: Path, bands: Sequence[Band], min_side: int = 64) -> None:
    """One clip a row as PNG, its frames from left to right; the clips that belong together one above the other.

    Args:
        path: a .png file, written atomically.
        bands: what belongs together has the same number of clips.
        min_side: frames are enlarged by a whole factor to at least this many pixels.
    """
    rows: list[GridRow] = []
    given: list[int] = []
    for band in bands:
        for i in range(len(band[0].clips)):
            together = [_strip(origin, i) for origin in band]
            for row, marked in chain.from_iterable(zip(*together, strict=True)):
                rows.append(row)
                given.append(marked)
    sheet = grid(rows, min_side, given)
    write_atomically(path, lambda aside: sheet.save(aside, format="PNG"))


def _strip(origin: Clips, i: int) -> list[tuple[GridRow, int]]:
    """Clip i as rows of at most FRAMES_A_ROW frames, each with the number of its given frames."""
    frames = origin.clips[i].transpose(0, 1)  # (T, C, H, W)
    title = " · ".join([origin.title, *origin.notes[i : i + 1]])
    rows = []
    for start in range(0, len(frames), FRAMES_A_ROW):
        part = frames[start : start + FRAMES_A_ROW]
        rows.append(((title if start == 0 else "", part), min(max(origin.given - start, 0), len(part))))
    return rows


def save_film(path: Path, bands: Sequence[Band], frame_rate: float, min_side: int = 96) -> None:
    """All clips side by side as one film, the given frames in a coloured frame while they last.

    Args:
        path: a .mp4 (H.264 in yuv420p, BT.709), .webp (lossless, endless) or .gif file (endless), written atomically.
        bands: as for `save_contact_sheet`; a clip that is shorter than the longest one rests on its last frame.
        frame_rate: frames per second.
        min_side: clips are enlarged by a whole factor to at least this many pixels.

    Raises:
        ValueError: together they are larger than a film can be.
    """
    sheets = _sheets(bands, min_side)
    if max(sheets[0].size) > LARGEST:
        width, height = sheets[0].size
        raise ValueError(f"a film of {width}×{height} pixels is too large, {LARGEST} is the most: draw fewer clips")
    write = {".mp4": _write_mp4, ".webp": _write_webp, ".gif": _write_gif}[path.suffix.lower()]
    write_atomically(path, lambda aside: write(aside, sheets, frame_rate))


def _sheets(bands: Sequence[Band], min_side: int) -> list[Image.Image]:
    """The film's pictures."""
    rows = []  # title, clips, given
    for band in bands:
        for start in range(0, len(band[0].clips), CLIPS_A_ROW):
            for origin in band:
                title = origin.title if start == 0 or len(band) > 1 else ""
                rows.append((title, origin.clips[start : start + CLIPS_A_ROW], origin.given))
    return [
        grid(
            [(title, clips[:, :, min(t, clips.shape[2] - 1)]) for title, clips, _ in rows],
            min_side,
            [len(clips) if t < given else 0 for _, clips, given in rows],
        )
        for t in range(max(clips.shape[2] for _, clips, _ in rows))
    ]


def _write_mp4(path: Path, sheets: Sequence[Image.Image], frame_rate: float) -> None:
    width, height = (-(-extent // 2) * 2 for extent in sheets[0].size)  # yuv420p has one colour for 2×2 pixels
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(frame_rate).limit_denominator(1001), options={"crf": CRF, "preset": "medium"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # the same bytes on every machine
        context.color_primaries = context.color_trc = context.colorspace = BT709
        for sheet in sheets:
            even = Image.new("RGB", (width, height), "white")
            even.paste(sheet)
            frame = av.VideoFrame.from_ndarray(np.asarray(even), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())


def _write_webp(path: Path, sheets: Sequence[Image.Image], frame_rate: float) -> None:
    first, *rest = sheets
    first.save(
        path, "WEBP", save_all=True, append_images=rest, duration=_durations(len(sheets), frame_rate, 1), loop=0,
        lossless=True, quality=60, method=4,
    )  # fmt: skip


def _write_gif(path: Path, sheets: Sequence[Image.Image], frame_rate: float) -> None:
    first, *rest = sheets
    first.save(
        path, "GIF", save_all=True, append_images=rest, duration=_durations(len(sheets), frame_rate, 10), loop=0,
    )  # fmt: skip


def _durations(frames: int, frame_rate: float, unit: int) -> list[int]:
    """How long each frame stays, in milliseconds, in whole `unit`s that keep pace with the frame rate."""
    ends = [round(1000 * t / frame_rate / unit) * unit for t in range(frames + 1)]
    return [end - start for start, end in pairwise(ends)]
