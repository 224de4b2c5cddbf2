"""Decoding a clip from a video file of any format: square RGB frames, evenly spaced in time.

- The video is the first video stream that is not cover art; a file without one is skipped.
- The display matrix (rotation, mirroring) is applied, pixels are made square, transparency is composited over white,
  and other formats are converted to 8-bit RGB by the file's color matrix and range. HDR is not tone-mapped.
- The shorter side is resized to the resolution by swscale's area filter (averages when shrinking, linear when
  enlarging), and the center is cropped.
- With a frame rate, the frames of a clip are those displayed at regular times, whatever the timestamps in the file;
  without one, they are the file's own frames in display order.
- A file that is shorter than a clip is skipped.
- Length and timestamps are taken from the header; if it proves wrong, the frames are counted by decoding the file.
- A file is skipped if decoding hits damage before or in the clip; errors are never concealed. A truncated file can be
  used as long as its clips lie before the end.
- A file is skipped if its frames exceed `MAX_PIXELS`, its index `MAX_FRAMES`, or decoding a clip `MAX_DECODED`. Other
  files and network addresses that it references are never opened.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, dropwhile, islice
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from ulzoo.data.source import Unreadable

MAX_PIXELS = 7680 * 4320  # 8K UHD
MAX_FRAMES = 2**18  # 2.4 hours at 30 frames/s; seeking in FFmpeg may take quadratic time
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
    position: float | None = None,
) -> Tensor:
    """Decode one clip of a video as uint8 (3, frames, resolution, resolution), by the rules of this module.

    Args:
        file: path, or content.
        name: name of the file in messages.
        frames: frames per clip.
        resolution: side of the square in pixels.
        frame_rate: frames per second that the video is resampled to; None to use the file's own frames.
        stride: use every `stride`-th of these frames.
        position: of the clip in the video, from 0 (first) to below 1 (last); None for the middle.

    Raises:
        UnreadableVideo: no video, too short, damaged, or beyond the limits.
    """
    request = _ClipRequest(frames, frame_rate, stride, position, _SquareCrop(resolution))
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
    with _open(file) as (container, stream):
        frames = [square(frame, float(stream.sample_aspect_ratio or 1)) for frame in container.decode(stream)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous()


def first_frame(length: int, span: int, position: float | None) -> int:
    """The first frame of a clip that spans `span` of `length` frames, at a position in [0, 1), or None for the middle.

    Raises ValueError if the video is too short.
    """
    last = length - span
    if last < 0:
        raise ValueError(f"too short: a clip spans {span} frames, the video has {length}")
    return last // 2 if position is None else int(position * (last + 1))


@dataclass(frozen=True)
class _Timeline:
    """Display times of a video's frames in seconds: from its header or, with `times`, from decoding all frames."""

    start: float
    end: float
    frames: int
    rate: float
    times: tuple[float, ...] = ()

    def before(self, index: int) -> float:
        """A time between the previous frame and this one, or that of this one."""
        return self.times[index] if self.times else self.start + (index - 0.5) / self.rate


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
        """Decode the clip by the header and a seek or, if `counted`, by the true times from the start of the file."""
        timeline = self._count(file) if counted else None
        with _open(file) as (container, stream):
            timeline = timeline or _header(container, stream)
            span = (self.frames - 1) * self.stride + 1
            if self.frame_rate is None:
                first = first_frame(timeline.frames, span, self.position)
                start, slack = timeline.before(first), 1 / timeline.rate
            else:
                first = first_frame(int((timeline.end - timeline.start) * self.frame_rate + 0.5), span, self.position)
                start, slack = timeline.start + first / self.frame_rate, _half_tick(stream)
            if first and not counted:
                container.seek(int(start / (stream.time_base or 1)), stream=stream)
            needed_from = start if self.frame_rate is None and not counted else None
            decoded = self._decode(container, stream, timeline.rate, needed_from)
            head = next(decoded, None)
            if head is None or head[0] > start + slack:
                raise ValueError("its frames are not at the times given in its header")
            decoded = chain((head,), decoded)
            if self.frame_rate is None:
                rest = dropwhile(lambda item: item[0] < start, decoded)
                selected = (frame for _, frame in islice(rest, 0, None, self.stride))
            else:
                times = [start + k * self.stride / self.frame_rate for k in range(self.frames)]
                selected = _displayed_at(times, decoded, slack, timeline.rate)
            return self._stack(islice(selected, self.frames), stream)

    def _stack(self, frames: Iterator[VideoFrame], stream: VideoStream) -> Tensor:
        side = self.square.side
        clip = np.empty((3, self.frames, side, side), np.uint8)
        count, previous = 0, None
        for frame in frames:
            if frame is previous:
                clip[:, count] = clip[:, count - 1]
            else:
                clip[:, count] = self.square(frame, float(stream.sample_aspect_ratio or 1)).transpose(2, 0, 1)
            count, previous = count + 1, frame
        if count < self.frames:
            raise ValueError(f"it ends after {count} of its clip's {self.frames} frames")
        return torch.from_numpy(clip)

    def _count(self, file: str | Path | bytes) -> _Timeline:
        """The times of all frames, from decoding the file."""
        with _open(file) as (container, stream):
            rate = _rate(stream)
            times, duration = [], 0.0
            for time, frame in self._decode(container, stream, rate):
                times.append(time)
                duration = _duration(frame, rate)
        if not times:
            raise ValueError("no frames in it")
        return _Timeline(times[0], times[-1] + duration, len(times), rate, tuple(times))

    def _decode(
        self, container: InputContainer, stream: VideoStream, rate: float, needed_from: float | None = None
    ) -> Iterator[tuple[float, VideoFrame]]:
        """Yield times and frames in display order; before `needed_from`, only reference frames are decoded.

        Raises ValueError on damage, or if the clip takes too much decoding.
        """
        index = 0
        for packet in container.demux(stream):
            if needed_from is not None:
                early = packet.pts is not None and float(packet.pts * packet.time_base) < needed_from
                stream.codec_context.skip_frame = "NONREF" if early else "DEFAULT"
            for frame in packet.decode():
                self.decoded_pixels += frame.width * frame.height
                if self.decoded_pixels > MAX_DECODED:
                    raise ValueError(f"its clip takes decoding more than {MAX_DECODED / 1e9:.0f} billion pixels")
                if frame.is_corrupt:
                    raise ValueError("damaged frames")
                yield index / rate if frame.time is None else frame.time, frame
                index += 1


class _SquareCrop:
    """Convert frames to upright RGB, center-cropped and resized to `side` × `side`: uint8 (H, W, 3)."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.reformatter = VideoReformatter()  # reused, since setting up the filters takes longer than applying them

    def __call__(self, frame: VideoFrame, pixel_aspect: float) -> np.ndarray:
        opaque = over_white(frame) if any(part.is_alpha for part in frame.format.components) else frame
        width, height = frame.width * pixel_aspect, frame.height
        scale = self.side / min(width, height)
        width, height = max(self.side, round(width * scale)), max(self.side, round(height * scale))
        if width * height > MAX_PIXELS:
            raise ValueError(f"too long and thin: {frame.width}×{frame.height} pixels of {pixel_aspect:g}:1")
        resized = self.reformatter.reformat(opaque, width, height, "rgb24", interpolation="AREA", threads=1)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        return upright(resized.to_ndarray()[top : top + self.side, left : left + self.side], frame)


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
    times: list[float], decoded: Iterator[tuple[float, VideoFrame]], slack: float, rate: float
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
        shown, end = frame, start + _duration(frame, rate)
    while shown is not None and time < end + slack:
        yield shown
        time = next(remaining, np.inf)


def _header(container: InputContainer, stream: VideoStream) -> _Timeline:
    """The timeline given in the file's header. Raises ValueError if it has no duration."""
    rate = _rate(stream)
    if stream.duration is not None and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration = container.duration / av.time_base
    else:
        raise ValueError("no duration in its header")
    start = float((stream.start_time or 0) * (stream.time_base or 0))
    return _Timeline(start, start + duration, stream.frames or round(duration * rate), rate)


def _rate(stream: VideoStream) -> float:
    """Frames per second; 25 if unknown, as in FFmpeg."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def _duration(frame: VideoFrame, rate: float) -> float:
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / rate


def _half_tick(stream: VideoStream) -> float:
    """The rounding error of a timestamp in seconds, at most a millisecond."""
    return min(float(stream.time_base or 0) / 2, 0.001) + 1e-6


@contextmanager
def _open(file: str | Path | bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the file's container and video stream."""
    options = {"max_pixels": str(MAX_PIXELS), "protocol_whitelist": "none"}  # never open referenced files or addresses
    with (
        io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as content,
        av.open(content, "r", options=options, metadata_errors="replace") as container,
    ):
        streams = (s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        stream = next(streams, None)
        if stream is None or stream.codec_context is None:
            raise ValueError("no video in it that can be decoded")
        if max(stream.frames, len(stream.index_entries)) > MAX_FRAMES:
            raise ValueError(f"longer than {MAX_FRAMES} frames: split it into parts")
        stream.thread_type = "NONE"  # one thread per clip: loaders run one process per core
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
        yield container, stream
