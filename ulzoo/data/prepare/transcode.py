"""Transcoding a video, or a segment of it, to a small MP4 of fixed size, to be packed into shards; or copying it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from ulzoo.data.source import Unreadable
from ulzoo.data.videos.decode import over_white, upright
from ulzoo.data.videos.timeline import (
    MAX_PIXELS,
    OpenVideo,
    Timeline,
    UnreliableTimes,
    counted_timeline,
    header_duration,
    open_video,
    packet_timeline,
    timed_frames,
)

KEYFRAME_EVERY = 16
Pictures = Literal["yuv444", "lossless", "yuv420", "source"]
MAX_FRAME_RATE = 250
SLACK = 1.0  # seconds by which a trimmed file may exceed its segment
DEFAULT_FRAME_RATE = 25  # of a file without a frame rate
TIME_BASE = Fraction(1, 90_000)

_ROUNDING = 1e-4  # seconds; times in containers are rounded to milliseconds at worst
# No playlists, which reference other files.
_FORMATS = "mov,matroska,avi,flv,mpegts,mpeg,ogg,asf"
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True)
class _Codec:
    """An encoder of FFmpeg, its pixel format, and its constant rate factor, where 0 is lossless."""

    encoder: str
    pixels: str
    crf: int


CODECS: dict[str, _Codec] = {
    "yuv444": _Codec("libx264", "yuv444p", 10),
    "lossless": _Codec("libx264rgb", "rgb24", 0),
    "yuv420": _Codec("libx264", "yuv420p", 18),
}


@dataclass(frozen=True)
class VideoEncoding:
    """How clips are encoded.

    Args:
        resolution: shortest side in pixels, even. The files that "source" copies keep their size.
        frame_rate: frames per second; None keeps the video's own frames and times.
        pictures: "yuv444" is H.264 in 4:4:4 with constant rate factor 10, "lossless" H.264 that keeps every bit of the
            resized RGB pictures, "yuv420" 4:2:0 with constant rate factor 18, as in earlier versions; "source" copies
            files that are trimmed to their segment, with their size, their codec and their sound.

    Raises:
        ValueError: a resolution that is odd or below 16, a frame rate outside (0, 250], or one for "source".
    """

    resolution: int
    frame_rate: float | None = None
    pictures: Pictures = "yuv444"

    def __post_init__(self) -> None:
        if self.resolution < 16 or self.resolution % 2:
            raise ValueError(f"resolution must be an even number of at least 16 (for H.264), not {self.resolution}")
        if self.frame_rate is not None and not 0 < self.frame_rate <= MAX_FRAME_RATE:
            raise ValueError(f"frame_rate must be above 0 and at most {MAX_FRAME_RATE}, not {self.frame_rate}")
        if self.frame_rate is not None and self.pictures == "source":
            raise ValueError("pictures: source copies files, which keep their frame rate: leave out frame_rate")

    def settings(self) -> dict[str, Any]:
        """Everything that the bytes depend on besides the video and the versions of the libraries."""
        if self.pictures == "source":
            return {"codec": "of the source files"}
        codec = CODECS[self.pictures]
        size = {"resolution": self.resolution, "frame_rate": self.frame_rate}
        return {**size, "codec": f"h264 {codec.pixels}", "crf": codec.crf, "keyframe_every": KEYFRAME_EVERY}


def transcode(path: str, start: float, end: float, encoding: VideoEncoding, *, trimmed: bool) -> bytes:
    """Transcode the segment from `start` to `end`, in seconds, of a video to an MP4 without sound.

    H.264 as in `VideoEncoding`, a keyframe every 16 frames, BT.601 limited range unless it is RGB, one thread: the
    bytes are a function of the video, the arguments and the versions of FFmpeg and x264. The shorter side is resized to
    `encoding.resolution` (bicubic; non-square pixels are made square), the other side rounded to an even number. The
    display matrix is applied and transparency composited over white. Timestamps start at 0. With `pictures: source`,
    the bytes are those of the file.

    With a frame rate, the frame at time i / rate is the one displayed then, so that variable rates become constant.
    Without, frames keep their timestamps; a frame that is not later than the previous one is dropped.

    Args:
        path: a file of any format that FFmpeg reads; its first video stream that is not cover art is used.
        start: start of the segment in the full video, in seconds from its first frame.
        end: end of the segment.
        encoding: size and frame rate.
        trimmed: the file contains only the segment. Otherwise it is the full video, unless it is at most a second
            longer than the segment: then it is assumed to be trimmed.

    Raises:
        Unreadable: no video stream, damaged, fewer than two frames in the segment, frames larger than 8K, more than 250
            frames per second, a container other than MP4, MOV, Matroska, WebM, AVI, FLV, MPEG, Ogg or ASF, a full video
            that is to be copied. The message gives the reason, without the path.
    """
    assert 0 <= start < end, (start, end)
    try:
        if encoding.pictures == "source":
            return _copied(path, end - start, trimmed)
        try:
            return _transcode(path, (start, end), encoding, trimmed=trimmed, counted=False)
        except UnreliableTimes:
            return _transcode(path, (start, end), encoding, trimmed=trimmed, counted=True)
    except (av.FFmpegError, OSError) as error:
        raise Unreadable(error.strerror or type(error).__name__) from None


def _copied(path: str, seconds: float, trimmed: bool) -> bytes:
    """The file itself, if it is trimmed to its segment and its first two frames can be decoded."""
    with open_video(path, formats=_FORMATS) as video:
        length = header_duration(video)
        if not trimmed and (length is None or length > seconds + SLACK):
            raise Unreadable("not trimmed to its segment: only whole files are copied untouched")
        if len(list(islice(video.decode(), 2))) < 2:
            raise Unreadable("fewer than two frames between the times asked for")
    return Path(path).read_bytes()


def _transcode(
    path: str, segment: tuple[float, float], encoding: VideoEncoding, *, trimmed: bool, counted: bool
) -> bytes:
    """Transcode by the timestamps of the file or, if `counted`, by times restored from the order of its frames."""
    timeline = _timeline(path, counted)
    start, end = segment
    with open_video(path, formats=_FORMATS) as video:
        length = header_duration(video) if timeline is None else timeline.end - timeline.start
        if trimmed or (length is not None and length <= end - start + SLACK):
            start, end = 0.0, end - start
        if counted:
            assert timeline is not None
            timed: Iterator[Timed] = zip((t - timeline.start for t in timeline.times), video.decode(), strict=False)
        else:
            timed = _sought(video, timeline, start)
        frames = _segment(timed, start, end)
        if encoding.frame_rate is not None:
            frames = _resampled(frames, start, end, Fraction(encoding.frame_rate).limit_denominator(1001))
        return _encode(frames, int((end - start) * MAX_FRAME_RATE) + 1, encoding, video.stream)


Timed = tuple[float, av.VideoFrame]


def _timeline(path: str, counted: bool) -> Timeline | None:
    """The times of all frames; None if the format stores them with the frames."""
    with open_video(path, formats=_FORMATS) as video:
        if counted:
            return counted_timeline(video, _undamaged(video.decode()))
        return None if video.has_timed_frames else packet_timeline(video)


def _undamaged(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The frames up to the first error."""
    with suppress(av.FFmpegError):
        yield from frames


def _sought(video: OpenVideo, timeline: Timeline | None, start: float) -> Iterator[Timed]:
    """Times since the first frame of the video, and frames, from a keyframe before `start`."""
    base = video.stream.time_base or Fraction(0)
    origin = float((video.stream.start_time or 0) * base) if timeline is None else timeline.start
    if start > 0 and base > 0:
        video.container.seek(int((origin + start) / base), stream=video.stream)
    sought = origin + start + _ROUNDING if start > 0 else None
    return ((time - origin, frame) for time, frame in timed_frames(video.decode(), sought=sought))


def _segment(frames: Iterator[Timed], start: float, end: float) -> Iterator[Timed]:
    """The frame displayed at `start`, then all up to `end`, without those that are not later than the previous one."""
    previous: Timed | None = None
    latest = -np.inf
    for time, frame in frames:
        if time <= latest:
            continue
        latest = time
        if time >= end - _ROUNDING:
            break
        if time > start + _ROUNDING:
            if previous is not None:
                yield previous
                previous = None
            yield time, frame
        else:
            previous = time, frame
    if previous is not None:  # the last frame of the video, displayed at `start`
        yield previous


def _resampled(frames: Iterator[Timed], start: float, end: float, rate: Fraction) -> Iterator[Timed]:
    """The frame displayed at every tick of a constant rate; the last one has the average duration of the others."""
    shown: Timed | None = None
    count, first, tick = 0, start, 0
    for time, frame in frames:
        if shown is None:
            first = max(start, time)
        while shown is not None and first + tick / rate < time - _ROUNDING:
            yield float(first + tick / rate), shown[1]
            tick += 1
        shown = time, frame
        count += 1
    if shown is None:
        return
    until = min(end, shown[0] + (shown[0] - first) / max(1, count - 1))
    while first + tick / rate < until - _ROUNDING:
        yield float(first + tick / rate), shown[1]
        tick += 1


def _encode(frames: Iterator[Timed], max_frames: int, encoding: VideoEncoding, stream: av.VideoStream) -> bytes:
    rate = Fraction(encoding.frame_rate or stream.average_rate or DEFAULT_FRAME_RATE).limit_denominator(1001)
    rate = rate if 0 < rate <= MAX_FRAME_RATE else Fraction(DEFAULT_FRAME_RATE)
    return encode_mp4(_pictures(frames, max_frames, encoding, stream), encoding, rate)


def _pictures(
    frames: Iterator[Timed], max_frames: int, encoding: VideoEncoding, stream: av.VideoStream
) -> Iterator[Timed]:
    """RGB pictures of the size to be stored, and times that start at 0."""
    to_rgb = VideoReformatter()
    size, first, count = (0, 0), 0.0, 0
    for time, frame in frames:
        count += 1
        if count > max_frames:
            raise Unreadable(f"more than {MAX_FRAME_RATE} frames per second")
        if count == 1:
            size, first = _size(frame, stream, encoding.resolution), time
        yield time - first, _resized(frame, size, to_rgb)
    if count < 2:
        raise Unreadable("fewer than two frames between the times asked for")


def encode_mp4(pictures: Iterable[Timed], encoding: VideoEncoding, rate: Fraction) -> bytes:
    """An MP4 of RGB pictures of one size.

    Args:
        pictures: times in seconds, and pictures in the format rgb24.
        encoding: determines the codec; not "source".
        rate: frames per second to be written into the header.
    """
    codec = CODECS[encoding.pictures]
    to_yuv = VideoReformatter()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as output:
        encoder: Any = None
        for time, rgb in pictures:
            if encoder is None:
                encoder = _encoder(output, (rgb.width, rgb.height), codec, rate)
            picture = rgb
            if codec.pixels != "rgb24":
                picture = to_yuv.reformat(
                    rgb,
                    format=codec.pixels,
                    dst_colorspace=Colorspace.ITU601,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=_SCALING,
                    threads=1,
                )
            picture.time_base = TIME_BASE
            picture.pts = round(time / TIME_BASE)
            output.mux(encoder.encode(picture))
        output.mux(encoder.encode(None))
    return buffer.getvalue()


def _size(frame: av.VideoFrame, stream: av.VideoStream, shorter: int) -> tuple[int, int]:
    """Width and height before rotation, both even, of which `shorter` is the smaller one."""
    width, height = frame.width * float(stream.sample_aspect_ratio or 1), float(frame.height)
    longer = 2 * round(shorter * max(width, height) / min(width, height) / 2)
    if longer * shorter > MAX_PIXELS:
        raise Unreadable(f"too long and thin: {round(width)}×{round(height)} pixels")
    return (longer, shorter) if width >= height else (shorter, longer)


def _resized(frame: av.VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> av.VideoFrame:
    """RGB, resized to `size`, then rotated and mirrored by the display matrix."""
    opaque = over_white(frame) if any(part.is_alpha for part in frame.format.components) else frame
    rgb = reformatter.reformat(opaque, *size, format="rgb24", interpolation=_SCALING, threads=1).to_ndarray()
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(upright(rgb, frame)), format="rgb24")


def _encoder(output: av.container.OutputContainer, size: tuple[int, int], codec: _Codec, rate: Fraction) -> Any:
    encoder: Any = output.add_stream(codec.encoder, rate=rate)
    encoder.width, encoder.height = size
    encoder.pix_fmt = codec.pixels
    # The macroblock tree of x264 is not deterministic on processors with AVX-512.
    encoder.options = {"preset": "medium", "crf": str(codec.crf), "g": str(KEYFRAME_EVERY), "x264-params": "mbtree=0"}
    context = encoder.codec_context
    context.time_base = TIME_BASE
    context.thread_count = 1
    if codec.pixels != "rgb24":
        context.colorspace = Colorspace.SMPTE170M
        context.color_range = ColorRange.MPEG
    return encoder
