"""One video, or a stretch of it, as a small MP4 of known size: what shards are packed with."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from ulzoo.data.source import Unreadable
from ulzoo.data.videos.decode import MAX_PIXELS, over_white, upright

CRF = 18
KEYFRAME_EVERY = 16
MAX_FRAME_RATE = 250
SLACK = 1.0  # seconds by which a trimmed file may exceed its stretch
USUAL_FRAME_RATE = 25  # of a file that does not say its own
TIME_BASE = Fraction(1, 90_000)

_ROUNDING = 1e-4  # seconds; times in containers are rounded to milliseconds at worst
# A file is one file: no playlists, which name others, and nothing from the network.
_GUARDS = {"protocol_whitelist": "none", "format_whitelist": "mov,matroska,avi,flv,mpegts,mpeg,ogg,asf"}
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True)
class VideoEncoding:
    """How clips are written.

    Args:
        resolution: shortest side in pixels, even.
        frame_rate: frames per second; None keeps the video's own frames and times.

    Raises:
        ValueError: an odd or too small resolution, a frame rate outside (0, 250].
    """

    resolution: int
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        if self.resolution < 16 or self.resolution % 2:
            raise ValueError(f"resolution must be an even number from 16 on (H.264 4:2:0), not {self.resolution}")
        if self.frame_rate is not None and not 0 < self.frame_rate <= MAX_FRAME_RATE:
            raise ValueError(f"frame_rate must lie above 0 and be {MAX_FRAME_RATE} at most, not {self.frame_rate}")

    def settings(self) -> dict[str, Any]:
        """All that the bytes depend on besides the video and the libraries' versions."""
        return {**asdict(self), "codec": "h264 yuv420p", "crf": CRF, "keyframe_every": KEYFRAME_EVERY}


def transcode(path: str, start: float, end: float, encoding: VideoEncoding, *, trimmed: bool) -> bytes:
    """The seconds from `start` to `end` of a video as an MP4 without sound.

    H.264, 4:2:0, constant rate factor 18, a keyframe every 16 frames, BT.601 limited range, one thread: the bytes are
    a function of the video, the arguments and the versions of FFmpeg and x264. The shortest side becomes
    `encoding.resolution` (bicubic; non-square pixels are made square), the other side is rounded to an even number;
    frames are turned and mirrored as its display matrix says, transparency is laid over white. Times start at 0.

    With a frame rate, the frame at time i / rate is the one that was shown then, so variable rates become constant.
    Without, frames keep their times; a frame that is not later than the one before is dropped.

    Args:
        path: a file of any format that FFmpeg reads; its first video stream that is not cover art is taken.
        start: where the stretch begins in the whole video, in seconds from its first frame.
        end: where it ends.
        encoding: size and frame rate.
        trimmed: the file holds the stretch alone. Otherwise it is the whole video, unless it is no longer than the
            stretch and a second, which must be one trimmed already.

    Raises:
        Unreadable: no video in it, damaged, less than two frames in the stretch, frames larger than 8K, more than 250
            frames per second, another container than MP4, MOV, Matroska, WebM, AVI, FLV, MPEG, Ogg or ASF. The message
            says why, without the path.
    """
    assert 0 <= start < end, (start, end)
    try:
        with open(path, "rb") as file, av.open(file, "r", options=_GUARDS, metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams or streams[0].codec_context is None:
                raise Unreadable("no video in it that can be decoded")
            stream = streams[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
            length = _length(container, stream)
            if trimmed or (length is not None and length <= end - start + SLACK):
                start, end = 0.0, end - start
            frames = _stretch(container, stream, start, end)
            if encoding.frame_rate is not None:
                frames = _resampled(frames, start, end, Fraction(encoding.frame_rate).limit_denominator(1001))
            return _encode(frames, int((end - start) * MAX_FRAME_RATE) + 1, encoding, stream)
    except (av.FFmpegError, OSError) as error:
        raise Unreadable(error.strerror or type(error).__name__) from None


Timed = tuple[float, av.VideoFrame]


def _length(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds, as the file claims."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _stretch(
    container: av.container.InputContainer, stream: av.VideoStream, start: float, end: float
) -> Iterator[Timed]:
    """Frames with their seconds since the first of the video, in order: the one shown at `start`, and all to `end`."""
    base = stream.time_base
    origin = float((stream.start_time or 0) * base) if base else 0.0
    if start > 0 and base:
        container.seek(int((origin + start) / base), stream=stream)
    gap = 1 / float(stream.average_rate or USUAL_FRAME_RATE)
    before: Timed | None = None
    latest = -gap
    for frame in container.decode(stream):
        time = latest + gap if frame.time is None else frame.time - origin
        if time <= latest:
            continue
        latest = time
        if time >= end - _ROUNDING:
            break
        if time > start + _ROUNDING:
            if before is not None:
                yield before
                before = None
            yield time, frame
        else:
            before = time, frame
    if before is not None:  # the last frame of the video, shown at `start`
        yield before


def _resampled(frames: Iterator[Timed], start: float, end: float, rate: Fraction) -> Iterator[Timed]:
    """The frame shown at every tick of a constant rate; the last one stays as long as the others did on average."""
    shown: Timed | None = None
    seen, first, tick = 0, start, 0
    for time, frame in frames:
        if shown is None:
            first = max(start, time)
        while shown is not None and first + tick / rate < time - _ROUNDING:
            yield float(first + tick / rate), shown[1]
            tick += 1
        shown = time, frame
        seen += 1
    if shown is None:
        return
    until = min(end, shown[0] + (shown[0] - first) / max(1, seen - 1))
    while first + tick / rate < until - _ROUNDING:
        yield float(first + tick / rate), shown[1]
        tick += 1


def _encode(frames: Iterator[Timed], most: int, encoding: VideoEncoding, stream: av.VideoStream) -> bytes:
    into_rgb, into_yuv = VideoReformatter(), VideoReformatter()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as output:
        encoder: Any = None
        size, first, count = (0, 0), 0.0, 0
        for time, frame in frames:
            count += 1
            if count > most:
                raise Unreadable(f"more than {MAX_FRAME_RATE} frames per second")
            if count == 1:
                size, first = _size(frame, stream, encoding.resolution), time
            picture = _picture(frame, size, into_rgb)
            if encoder is None:
                encoder = _encoder(output, (picture.width, picture.height), encoding, stream)
            ready = into_yuv.reformat(
                picture,
                format="yuv420p",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
                interpolation=_SCALING,
                threads=1,
            )
            ready.time_base = TIME_BASE
            ready.pts = round((time - first) / TIME_BASE)
            output.mux(encoder.encode(ready))
        if count < 2:
            raise Unreadable("fewer than two frames between the times asked for")
        output.mux(encoder.encode(None))
    return buffer.getvalue()


def _size(frame: av.VideoFrame, stream: av.VideoStream, shortest: int) -> tuple[int, int]:
    """Width and height before the frame is turned, both even, `shortest` being the smaller one."""
    width, height = frame.width * float(stream.sample_aspect_ratio or 1), float(frame.height)
    longest = 2 * round(shortest * max(width, height) / min(width, height) / 2)
    if longest * shortest > MAX_PIXELS:
        raise Unreadable(f"too long and thin: {round(width)}×{round(height)} pixels")
    return (longest, shortest) if width >= height else (shortest, longest)


def _picture(frame: av.VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> av.VideoFrame:
    """RGB, resized to this size, then turned as the file's display matrix says."""
    opaque = over_white(frame) if any(part.is_alpha for part in frame.format.components) else frame
    rgb = reformatter.reformat(opaque, *size, format="rgb24", interpolation=_SCALING, threads=1).to_ndarray()
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(upright(rgb, frame)), format="rgb24")


def _encoder(output: av.container.OutputContainer, size: tuple[int, int], encoding: VideoEncoding, stream: Any) -> Any:
    rate = Fraction(encoding.frame_rate or stream.average_rate or USUAL_FRAME_RATE).limit_denominator(1001)
    encoder: Any = output.add_stream("libx264", rate=rate if 0 < rate <= MAX_FRAME_RATE else USUAL_FRAME_RATE)
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    # x264's macroblock tree gives other bytes from run to run where the processor has AVX-512.
    encoder.options = {"preset": "medium", "crf": str(CRF), "g": str(KEYFRAME_EVERY), "x264-params": "mbtree=0"}
    context = encoder.codec_context
    context.time_base = TIME_BASE
    context.thread_count = 1
    context.colorspace = Colorspace.SMPTE170M
    context.color_range = ColorRange.MPEG
    return encoder
