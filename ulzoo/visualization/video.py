"""Clips as MP4, as animated WebP or GIF, and as contact sheets."""

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

CLIPS_PER_ROW = 8
FRAMES_PER_ROW = 16
# Of crf, 0 is lossless and 23 the default. The macroblock tree of x264 is not deterministic on processors with AVX-512.
X264 = {"crf": "14", "preset": "medium", "mbtree": "0"}
MAX_SIDE = 16383  # pixels, of WebP; the limit of the H.264 encoder is about the same
BT709 = 1  # H.264's number for these primaries, curve and matrix


@dataclass(frozen=True)
class Clips:
    """Clips of one origin: the data, or a model.

    Attributes:
        title: written above the clips.
        clips: (n, C, T, H, W) in [-1, 1].
        context_frames: number of first frames of each clip that the model was given; they have a coloured frame.
        notes: a note on each clip, for the contact sheet.
    """

    title: str
    clips: Tensor
    context_frames: int = 0
    notes: Sequence[str] = ()


Band = Sequence[Clips]  # corresponding clips, such as the ground truth above a model's clips


def save_contact_sheet(path: Path, bands: Sequence[Band], min_side: int = 64) -> None:
    """Save a PNG with one clip per row, its frames from left to right; corresponding clips are below each other.

    Args:
        path: a .png file, written atomically.
        bands: the clips; all entries of a band have the same number of clips.
        min_side: frames are scaled by an integer to at least this many pixels.
    """
    rows: list[GridRow] = []
    framed: list[int] = []
    for band in bands:
        for i in range(len(band[0].clips)):
            strips = [_strip(origin, i) for origin in band]
            for row, in_frame in chain.from_iterable(zip(*strips, strict=True)):
                rows.append(row)
                framed.append(in_frame)
    sheet = grid(rows, min_side, framed)
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))


def _strip(origin: Clips, i: int) -> list[tuple[GridRow, int]]:
    """Clip i as rows of at most FRAMES_PER_ROW frames, each with the number of its context frames."""
    frames = origin.clips[i].transpose(0, 1)  # (T, C, H, W)
    title = " · ".join([origin.title, *origin.notes[i : i + 1]])
    rows = []
    for start in range(0, len(frames), FRAMES_PER_ROW):
        part = frames[start : start + FRAMES_PER_ROW]
        rows.append(((title if start == 0 else "", part), min(max(origin.context_frames - start, 0), len(part))))
    return rows


def save_video(path: Path, bands: Sequence[Band], frame_rate: float, min_side: int = 96) -> None:
    """Save all clips side by side in one video, with a coloured frame during context frames.

    Args:
        path: a .mp4 (H.264 in yuv420p, BT.709), .webp (lossless, looping) or .gif file (looping), written atomically.
        bands: as for `save_contact_sheet`; a clip that is shorter than the longest one ends with copies of its last
            frame.
        frame_rate: frames per second.
        min_side: clips are scaled by an integer to at least this many pixels.

    Raises:
        ValueError: the frames are larger than a video permits.
    """
    sheets = _sheets(bands, min_side)
    if max(sheets[0].size) > MAX_SIDE:
        width, height = sheets[0].size
        raise ValueError(f"a video of {width}×{height} pixels is too large, the limit is {MAX_SIDE}: draw fewer clips")
    write = {".mp4": _write_mp4, ".webp": write_webp, ".gif": _write_gif}[path.suffix.lower()]
    write_atomically(path, lambda temporary: write(temporary, sheets, frame_rate))


def _sheets(bands: Sequence[Band], min_side: int) -> list[Image.Image]:
    """The frames of the video."""
    rows = []  # title, clips, context frames
    for band in bands:
        for start in range(0, len(band[0].clips), CLIPS_PER_ROW):
            for origin in band:
                title = origin.title if start == 0 or len(band) > 1 else ""
                rows.append((title, origin.clips[start : start + CLIPS_PER_ROW], origin.context_frames))
    return [
        grid(
            [(title, clips[:, :, min(t, clips.shape[2] - 1)]) for title, clips, _ in rows],
            min_side,
            [len(clips) if t < context_frames else 0 for _, clips, context_frames in rows],
        )
        for t in range(max(clips.shape[2] for _, clips, _ in rows))
    ]


def _write_mp4(path: Path, sheets: Sequence[Image.Image], frame_rate: float) -> None:
    width, height = (-(-extent // 2) * 2 for extent in sheets[0].size)  # yuv420p has one chroma value for 2×2 pixels
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001), options=X264)
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


def write_webp(path: Path, sheets: Sequence[Image.Image], frame_rate: float) -> None:
    """Write an animated WebP, lossless and looping."""
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
    """The duration of each frame in milliseconds, multiples of `unit` whose sums follow the frame rate."""
    ends = [round(1000 * t / frame_rate / unit) * unit for t in range(frames + 1)]
    return [end - start for start, end in pairwise(ends)]
