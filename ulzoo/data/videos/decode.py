"""From a video file of any kind to a clip: squares of RGB pixels, evenly spaced in time.

The rules, for files as they are found:

- The video is the file's first picture stream that is not cover art; a file without one is left out.
- It is turned and mirrored as its display matrix says, its pixels are made square, transparency is laid over white,
  grey and more than 8 bits become 8-bit RGB by the file's own matrix and range. HDR is not tone-mapped.
- The shorter side is resized to the resolution by swscale's area filter: averages where it shrinks, linear where it
  enlarges. Then the middle is cut out.
- With a frame rate, a clip's frames are those shown at even steps of time, whatever the times of the file's frames;
  without one, they are the file's own frames in the order shown.
- A file that is shorter than a clip is left out.
- The header's word on length and times is believed until it proves wrong; then the frames are counted by decoding.
- Damage that the decoder meets on the way to the clip or in it leaves the file out: nothing is patched up. A file cut
  short serves as long as its clips lie in what is there.
- Frames of over `MAX_PIXELS`, an index of over `MAX_FRAMES` and clips behind more decoding than `MAX_WORK` leave the
  file out. No other file and no network address that a file names is ever opened.
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
MAX_FRAMES = 2**18  # 2.4 hours at 30 frames/s; FFmpeg's seeking may cost their square
MAX_WORK = 2**35  # pixels decoded for one clip: nine minutes of 1080p at 30 frames/s


class UnreadableVideo(Unreadable):
    """A file that gives no clip; the message names it and says why."""


def read_clip(
    file: str | Path | bytes,
    name: str,
    *,
    frames: int,
    resolution: int,
    frame_rate: float | None = None,
    stride: int = 1,
    chance: float | None = None,
) -> Tensor:
    """One clip of a video as uint8 (3, frames, resolution, resolution), by the rules of this module.

    Args:
        file: its path, or its content.
        name: what messages call it.
        frames: frames of the clip.
        resolution: side of the square in pixels.
        frame_rate: frames per second that the video is resampled to; None for the file's own frames.
        stride: the clip takes every `stride`-th of those frames.
        chance: in [0, 1), where the clip lies between the earliest place and the latest; None for the middle.

    Raises:
        UnreadableVideo: no video, too short, damaged, or beyond the limits.
    """
    wish = _ClipRequest(frames, frame_rate, stride, chance, _Square(resolution))
    try:
        try:
            return wish.read(file, counted=False)
        except (ValueError, av.FFmpegError):
            return wish.read(file, counted=True)
    except Exception as error:  # FFmpeg's errors come as OSError, ValueError, EOFError, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        message = f"{name}: {' '.join(reason.split())}"
        raise UnreadableVideo("".join(c if c.isprintable() else "?" for c in message)) from error


def read_video(file: bytes, resolution: int) -> Tensor:
    """All frames of a video that is known to be small and sound, uint8 (3, N, resolution, resolution)."""
    square = _Square(resolution)
    with _opened(file) as (container, stream):
        frames = [square(frame, float(stream.sample_aspect_ratio or 1)) for frame in container.decode(stream)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous()


def place(length: int, span: int, chance: float | None) -> int:
    """The first frame of a clip that spans `span` of `length` frames: by chance in [0, 1), or None for the middle.

    Raises ValueError where the clip does not fit.
    """
    room = length - span
    if room < 0:
        raise ValueError(f"too short: a clip spans {span} frames, here are {length}")
    return room // 2 if chance is None else int(chance * (room + 1))


@dataclass(frozen=True)
class _Timeline:
    """When a video's frames are shown, in seconds: by its header, or, with `times`, by having looked."""

    start: float
    end: float
    frames: int
    rate: float
    times: tuple[float, ...] = ()

    def before(self, index: int) -> float:
        """A time not after the frame's, but after that of the one before."""
        return self.times[index] if self.times else self.start + (index - 0.5) / self.rate


@dataclass
class _ClipRequest:
    """A clip to be had from a file."""

    frames: int
    frame_rate: float | None
    stride: int
    chance: float | None
    square: _Square
    work: int = 0

    def read(self, file: str | Path | bytes, counted: bool) -> Tensor:
        """The clip, placed by the header's length and sought, or by a count and decoded from the start."""
        timeline = self._count(file) if counted else None
        with _opened(file) as (container, stream):
            timeline = timeline or _header(container, stream)
            span = (self.frames - 1) * self.stride + 1
            if self.frame_rate is None:
                first = place(timeline.frames, span, self.chance)
                begin, slack = timeline.before(first), 1 / timeline.rate
            else:
                first = place(int((timeline.end - timeline.start) * self.frame_rate + 0.5), span, self.chance)
                begin, slack = timeline.start + first / self.frame_rate, _half_tick(stream)
            if first and not counted:
                container.seek(int(begin / (stream.time_base or 1)), stream=stream)
            unneeded = begin if self.frame_rate is None and not counted else None
            decoded = self._decode(container, stream, timeline.rate, unneeded)
            head = next(decoded, None)
            if head is None or head[0] > begin + slack:
                raise ValueError("its frames are not where its header says")
            decoded = chain((head,), decoded)
            if self.frame_rate is None:
                late = dropwhile(lambda shown: shown[0] < begin, decoded)
                picked = (frame for _, frame in islice(late, 0, None, self.stride))
            else:
                times = [begin + k * self.stride / self.frame_rate for k in range(self.frames)]
                picked = _shown_at(times, decoded, slack, timeline.rate)
            return self._stack(islice(picked, self.frames), stream)

    def _stack(self, picked: Iterator[VideoFrame], stream: VideoStream) -> Tensor:
        side = self.square.side
        clip = np.empty((3, self.frames, side, side), np.uint8)
        done, last = 0, None
        for frame in picked:
            if frame is last:
                clip[:, done] = clip[:, done - 1]
            else:
                clip[:, done] = self.square(frame, float(stream.sample_aspect_ratio or 1)).transpose(2, 0, 1)
            done, last = done + 1, frame
        if done < self.frames:
            raise ValueError(f"it ends after {done} of its clip's {self.frames} frames")
        return torch.from_numpy(clip)

    def _count(self, file: str | Path | bytes) -> _Timeline:
        """The true times of all frames."""
        with _opened(file) as (container, stream):
            rate = _rate(stream)
            times, duration = [], 0.0
            for time, frame in self._decode(container, stream, rate):
                times.append(time)
                duration = _duration(frame, rate)
        if not times:
            raise ValueError("no frames in it")
        return _Timeline(times[0], times[-1] + duration, len(times), rate, tuple(times))

    def _decode(
        self, container: InputContainer, stream: VideoStream, rate: float, unneeded: float | None = None
    ) -> Iterator[tuple[float, VideoFrame]]:
        """Frames in the order shown with their times; of those before `unneeded` only what others are decoded from.

        Raises on damage and when it gets too much.
        """
        index = 0
        for packet in container.demux(stream):
            if unneeded is not None:
                early = packet.pts is not None and float(packet.pts * packet.time_base) < unneeded
                stream.codec_context.skip_frame = "NONREF" if early else "DEFAULT"
            for frame in packet.decode():
                self.work += frame.width * frame.height
                if self.work > MAX_WORK:
                    raise ValueError(f"its clip lies behind more than {MAX_WORK / 1e9:.0f} billion pixels to decode")
                if frame.is_corrupt:
                    raise ValueError("damaged frames")
                yield index / rate if frame.time is None else frame.time, frame
                index += 1


class _Square:
    """Frames to the middle square at `side` × `side`, upright, in RGB: uint8 (H, W, 3)."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.reformatter = VideoReformatter()  # kept, since setting up the filters costs more than using them

    def __call__(self, frame: VideoFrame, pixel_aspect: float) -> np.ndarray:
        picture = over_white(frame) if any(part.is_alpha for part in frame.format.components) else frame
        width, height = frame.width * pixel_aspect, frame.height
        scale = self.side / min(width, height)
        width, height = max(self.side, round(width * scale)), max(self.side, round(height * scale))
        if width * height > MAX_PIXELS:
            raise ValueError(f"too long and thin: {frame.width}×{frame.height} pixels of {pixel_aspect:g}:1")
        resized = self.reformatter.reformat(picture, width, height, "rgb24", interpolation="AREA", threads=1)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        return upright(resized.to_ndarray()[top : top + self.side, left : left + self.side], frame)


def over_white(frame: VideoFrame) -> VideoFrame:
    """A frame with an alpha channel, laid over white, as RGB."""
    rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha = rgba[..., 3:]
    over = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return VideoFrame.from_ndarray(over.astype(np.uint8), format="rgb24")


def upright(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Pixels (H, W, 3) as the frame's display matrix has it shown; other angles than right ones to the nearest."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # its stub names strings
    if matrix is None:
        return pixels
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))  # x' = a x + c y, y' = b x + d y
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _shown_at(
    times: list[float], decoded: Iterator[tuple[float, VideoFrame]], slack: float, rate: float
) -> Iterator[VideoFrame]:
    """For each time the frame shown then: the last one that began by it, within `slack` seconds."""
    wanted = iter(times)
    time = next(wanted)
    shown: VideoFrame | None = None
    end = 0.0
    for begin, frame in decoded:
        while shown is not None and begin > time + slack:
            yield shown
            if (time := next(wanted, np.inf)) == np.inf:
                return
        shown, end = frame, begin + _duration(frame, rate)
    while shown is not None and time < end + slack:
        yield shown
        time = next(wanted, np.inf)


def _header(container: InputContainer, stream: VideoStream) -> _Timeline:
    """What the file says of itself. Raises ValueError where it says nothing."""
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
    """Frames per second, 25 where nothing is known, as FFmpeg has it."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def _duration(frame: VideoFrame, rate: float) -> float:
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / rate


def _half_tick(stream: VideoStream) -> float:
    """What a file's clock may have rounded a time by, in seconds: at most a millisecond."""
    return min(float(stream.time_base or 0) / 2, 0.001) + 1e-6


@contextmanager
def _opened(file: str | Path | bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file's container and picture stream."""
    options = {"max_pixels": str(MAX_PIXELS), "protocol_whitelist": "none"}  # nested files and addresses stay shut
    with (
        io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as content,
        av.open(content, "r", options=options, metadata_errors="replace") as container,
    ):
        pictures = (s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        stream = next(pictures, None)
        if stream is None or stream.codec_context is None:
            raise ValueError("no video in it that can be decoded")
        if max(stream.frames, len(stream.index_entries)) > MAX_FRAMES:
            raise ValueError(f"longer than {MAX_FRAMES} frames: cut it into parts")
        stream.thread_type = "NONE"  # one thread a clip: loaders have a process a core
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
        yield container, stream
