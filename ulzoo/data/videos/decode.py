"""Decoding a clip from a video file of any format: square RGB frames, evenly spaced in time.

- The video is the first video stream that is not cover art; a file without one is skipped.
- The display matrix (rotation, mirroring) is applied, pixels are made square, transparency is composited over white,
  and other formats are converted to 8-bit RGB by the file's color matrix and range. HDR is not tone-mapped.
- The shorter side is resized to the resolution by swscale's area filter (averages when shrinking, linear when
  enlarging), and the center is cropped, or the part of the longer side that a `Placement` names.
- With a frame rate, the frames of a clip are those displayed at regular times, whatever the timestamps in the file;
  without one, they are the file's own frames in display order.
- A file that is shorter than a clip is skipped.
- Length and times are taken from the header or the packets; if these prove wrong, the frames are counted by decoding
  the file, and their times restored from the order (`ulzoo.data.videos.timeline`).
- A file is skipped if decoding hits damage before or in the clip; errors are never concealed. A truncated file can be
  used as long as its clips lie before the end.
- A file is skipped if its frames exceed `MAX_PIXELS`, its index `MAX_FRAMES`, or decoding a clip `MAX_DECODED`. Other
  files and network addresses that it references are never opened.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, dropwhile, islice
from pathlib import Path

import av
import numpy as np
import torch
from av.sidedata.sidedata import Type
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from torch import Tensor

from ulzoo.data.source import MIDDLE, Placement, Unreadable
from ulzoo.data.videos.timeline import (
    MAX_FRAMES,
    MAX_PIXELS,
    OpenVideo,
    Timeline,
    counted_timeline,
    header_timeline,
    open_video,
    packet_timeline,
    timed_frames,
)

MAX_DECODED = 2**35  # pixels per clip: nine minutes of 1080p at 30 frames/s


class UnreadableVideo(Unreadable):
    """A file from which no clip can be decoded; the message names it and gives the reason."""


def read_clip(
    file: str | Path | bytes,
    name: str,
    *,
    frames: int,
    resolution: int,
    frame_rate: float | None = None,
    stride: int = 1,
    placement: Placement = MIDDLE,
) -> Tensor:
    """Decode one clip of a video as uint8 (3, frames, resolution, resolution), by the rules of this module.

    Args:
        file: path, or content.
        name: name of the file in messages.
        frames: frames per clip.
        resolution: side of the square in pixels.
        frame_rate: frames per second that the video is resampled to; None to use the file's own frames.
        stride: use every `stride`-th of these frames.
        placement: of the clip in the video.

    Raises:
        UnreadableVideo: no video, too short, damaged, or beyond the limits.
    """
    request = _ClipRequest(frames, frame_rate, stride, placement.position, _SquareCrop(resolution, placement.crop))
    try:
        try:
            return request.read(file, counted=False)
        except (ValueError, av.FFmpegError):
            return request.read(file, counted=True)
    except Exception as error:  # FFmpeg raises OSError, ValueError, EOFError, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        message = f"{name}: {' '.join(reason.split())}"
        raise UnreadableVideo("".join(c if c.isprintable() else "?" for c in message)) from error


def read_video(file: bytes, resolution: int) -> Tensor:
    """All frames of a small, trusted video as uint8 (3, N, resolution, resolution)."""
    square = _SquareCrop(resolution)
    with open_video(file) as video:
        aspect = _pixel_aspect(video)
        frames = [square(frame, aspect) for frame in video.decode()]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous()


def first_frame(length: int, span: int, position: float | None) -> int:
    """The first frame of a clip that spans `span` of `length` frames, at a position in [0, 1), or None for the middle.

    Raises ValueError if the video is too short.
    """
    last = length - span
    if last < 0:
        raise ValueError(f"too short: a clip spans {span} frames, the video has {length}")
    return last // 2 if position is None else int(position * (last + 1))


@dataclass
class _ClipRequest:
    """A clip to be decoded from a file."""

    frames: int
    frame_rate: float | None
    stride: int
    position: float | None
    square: _SquareCrop
    decoded_pixels: int = 0

    def read(self, file: str | Path | bytes, counted: bool) -> Tensor:
        """Decode the clip by the file's timestamps and a seek or, if `counted`, from the start by restored times."""
        timeline = self._count(file) if counted else None
        with open_video(file, max_frames=MAX_FRAMES) as video:
            if timeline is None:
                timeline = header_timeline(video) if video.has_timed_frames else _scan(file)
            span = (self.frames - 1) * self.stride + 1
            if self.frame_rate is None:
                first = first_frame(timeline.frames, span, self.position)
                start, latest = timeline.before(first), timeline.latest(first)
                slack = 0.0
            else:
                first = first_frame(int((timeline.end - timeline.start) * self.frame_rate + 0.5), span, self.position)
                start, slack = timeline.start + first / self.frame_rate, _half_tick(video)
                latest = start + slack
            if first and not counted:
                video.container.seek(int(start / (video.stream.time_base or 1)), stream=video.stream)
            needed_from = start if self.frame_rate is None and not counted else None
            frames = self._decode(video, needed_from)
            decoded = (
                zip(timeline.times, frames, strict=False)
                if counted
                else timed_frames(frames, sought=latest if first else None)
            )
            head = next(decoded, None)
            if head is None or head[0] > latest:
                raise ValueError("its frames are not at the times given in its header")
            decoded = chain((head,), decoded)
            if self.frame_rate is None:
                rest = dropwhile(lambda item: item[0] < start, decoded)
                selected = (frame for _, frame in islice(rest, 0, None, self.stride))
            else:
                times = [start + k * self.stride / self.frame_rate for k in range(self.frames)]
                selected = _displayed_at(times, decoded, slack, video)
            return self._stack(islice(selected, self.frames), _pixel_aspect(video))

    def _count(self, file: str | Path | bytes) -> Timeline:
        """The times of all frames, from decoding the file."""
        with open_video(file, max_frames=MAX_FRAMES) as video:
            return counted_timeline(video, self._decode(video))

    def _stack(self, frames: Iterator[VideoFrame], pixel_aspect: float) -> Tensor:
        side = self.square.side
        clip = np.empty((3, self.frames, side, side), np.uint8)
        count, previous = 0, None
        for frame in frames:
            if frame is previous:
                clip[:, count] = clip[:, count - 1]
            else:
                clip[:, count] = self.square(frame, pixel_aspect).transpose(2, 0, 1)
            count, previous = count + 1, frame
        if count < self.frames:
            raise ValueError(f"it ends after {count} of its clip's {self.frames} frames")
        return torch.from_numpy(clip)

    def _decode(self, video: OpenVideo, needed_from: float | None = None) -> Iterator[VideoFrame]:
        """Yield frames as `OpenVideo.decode`. Raises ValueError on damage, or if the clip takes too much decoding."""
        for frame in video.decode(needed_from):
            self.decoded_pixels += frame.width * frame.height
            if self.decoded_pixels > MAX_DECODED:
                raise ValueError(f"its clip takes decoding more than {MAX_DECODED / 1e9:.0f} billion pixels")
            if frame.is_corrupt:
                raise ValueError("damaged frames")
            yield frame


def _scan(file: str | Path | bytes) -> Timeline:
    """The times of all frames, from the packets of the file."""
    with open_video(file) as video:
        return packet_timeline(video)


class _SquareCrop:
    """Convert frames to upright RGB, resized and cropped to `side` × `side`, at the centre by default: (H, W, 3)."""

    def __init__(self, side: int, crop: float = 0.5) -> None:
        self.side, self.crop = side, crop
        self.reformatter = VideoReformatter()  # reused, since setting up the filters takes longer than applying them

    def __call__(self, frame: VideoFrame, pixel_aspect: float) -> np.ndarray:
        opaque = over_white(frame) if _has_alpha(frame.format.name) else frame
        width, height = frame.width * pixel_aspect, frame.height
        scale = self.side / min(width, height)
        width, height = max(self.side, round(width * scale)), max(self.side, round(height * scale))
        if width * height > MAX_PIXELS:
            raise ValueError(f"too long and thin: {frame.width}×{frame.height} pixels of {pixel_aspect:g}:1")
        resized = self.reformatter.reformat(opaque, width, height, "rgb24", interpolation="AREA", threads=1)
        left, top = int((width - self.side) * self.crop), int((height - self.side) * self.crop)
        return upright(resized.to_ndarray()[top : top + self.side, left : left + self.side], frame)


@cache
def _has_alpha(pixel_format: str) -> bool:
    return any(part.is_alpha for part in VideoFormat(pixel_format).components)


def over_white(frame: VideoFrame) -> VideoFrame:
    """Composite a frame with an alpha channel over white; the result is RGB."""
    rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha = rgba[..., 3:]
    blended = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return VideoFrame.from_ndarray(blended.astype(np.uint8), format="rgb24")


def upright(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Rotate and mirror pixels (H, W, 3) by the frame's display matrix, to the nearest right angle."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # its stub expects strings
    if matrix is None:
        return pixels
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))  # x' = a x + c y, y' = b x + d y
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _displayed_at(
    times: list[float], decoded: Iterator[tuple[float, VideoFrame]], slack: float, video: OpenVideo
) -> Iterator[VideoFrame]:
    """For each time, the frame displayed then: the last one that starts at most `slack` seconds after it."""
    remaining = iter(times)
    time = next(remaining)
    shown: VideoFrame | None = None
    end = 0.0
    for start, frame in decoded:
        while shown is not None and start > time + slack:
            yield shown
            if (time := next(remaining, np.inf)) == np.inf:
                return
        shown, end = frame, start + video.duration(frame)
    while shown is not None and time < end + slack:
        yield shown
        time = next(remaining, np.inf)


def _half_tick(video: OpenVideo) -> float:
    """The rounding error of a timestamp in seconds, at most a millisecond except for GIF's hundredths."""
    limit = 0.005 if video.container.format.name == "gif" else 0.001
    return min(float(video.stream.time_base or 0) / 2, limit) + 1e-6


def _pixel_aspect(video: OpenVideo) -> float:
    return float(video.stream.sample_aspect_ratio or 1)
