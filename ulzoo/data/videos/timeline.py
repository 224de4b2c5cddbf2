"""Opening a video file, and the display times of its frames.

Timestamps of files are often missing, in decoding order or restarted. Decoders output frames in display order all the
same, so that times that are wrong or missing can be restored from the order. A `Timeline` is made in one of three ways:

- from the header, for MP4 and Matroska, which store the display time of each frame;
- from all packets, without decoding, for other formats, provided that the packets have consistent display times;
- from decoding all frames, if these times are missing or inconsistent (`UnreliableTimes`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ulzoo.data.source import Unreadable

MAX_PIXELS = 7680 * 4320  # 8K UHD
MAX_FRAMES = 2**18  # 2.4 hours at 30 frames/s; seeking in FFmpeg may take quadratic time
MAX_GAP = 10.0  # seconds; a longer gap in a format with discontinuous clocks is a new clock, as in FFmpeg's programs

_TIMED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # a display time for each frame
_SKIPPING_DECODERS = {"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"}  # others ignore changes of skip_frame
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders ignore the alpha channel of WebM


class UnreliableTimes(ValueError):
    """The timestamps of a file are missing or out of order; the frames must be counted by decoding the file."""


@dataclass(frozen=True)
class Timeline:
    """Display times of a video's frames in seconds: from its header or, with `times`, of each frame."""

    start: float
    end: float
    frames: int
    rate: float
    times: tuple[float, ...] = ()

    def before(self, index: int) -> float:
        """A time between the previous frame and this one."""
        if not self.times or not index:
            return self.start + (index - 0.5) / self.rate
        return (self.times[index - 1] + self.times[index]) / 2

    def latest(self, index: int) -> float:
        """The latest time at which this frame may start."""
        return self.times[index] + 1e-6 if self.times else self.before(index) + 1 / self.rate


@dataclass(frozen=True)
class OpenVideo:
    """An open video file."""

    container: InputContainer
    stream: VideoStream
    decoder: VideoCodecContext

    @property
    def rate(self) -> float:
        """Frames per second; 25 if unknown, as in FFmpeg."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 25)

    @property
    def has_timed_frames(self) -> bool:
        """Whether the format stores the display time of each frame."""
        return self.container.format.name in _TIMED_FORMATS

    @property
    def max_gap(self) -> float:
        """The largest difference in seconds of successive timestamps of one clock."""
        flags: Any = self.container.format.flags  # an int; its stub expects Flags
        return MAX_GAP if flags & av.format.Flags.ts_discont.value else np.inf

    def decode(self, needed_from: float | None = None) -> Iterator[VideoFrame]:
        """Yield frames in display order; before the time `needed_from`, only reference frames are decoded."""
        skip_until = needed_from if self.decoder.name in _SKIPPING_DECODERS else None
        skips = False
        for packet in self.container.demux(self.stream):
            if skip_until is not None:
                early = packet.pts is not None and float(packet.pts * packet.time_base) < skip_until
                if early != skips:
                    self.decoder.skip_frame, skips = "NONREF" if early else "DEFAULT", early
            yield from self.decoder.decode(packet)

    def duration(self, frame: VideoFrame) -> float:
        """How long a frame is displayed, in seconds."""
        return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / self.rate


@contextmanager
def open_video(file: str | Path | bytes, *, formats: str = "", max_frames: int | None = None) -> Iterator[OpenVideo]:
    """Open the first video stream of a file that is not cover art.

    Args:
        file: path, or content.
        formats: names of the accepted formats, separated by commas; all if empty.
        max_frames: refuse files with longer indices.

    Raises:
        Unreadable: no such stream, or a longer index.
    """
    options = {"max_pixels": str(MAX_PIXELS), "protocol_whitelist": "none"}  # never open referenced files or addresses
    if formats:
        options["format_whitelist"] = formats
    with (
        io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as content,
        av.open(content, "r", options=options, metadata_errors="replace") as container,
    ):
        streams = (s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        stream = next(streams, None)
        if stream is None or stream.codec_context is None:
            raise Unreadable("no video in it that can be decoded")
        if max_frames is not None and max(stream.frames, len(stream.index_entries)) > max_frames:
            raise Unreadable(f"longer than {max_frames} frames: split it into parts")
        stream.thread_type = "NONE"  # one thread per clip: loaders run one process per core
        decoder = _decoder(stream)
        decoder.thread_count = 1
        decoder.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
        yield OpenVideo(container, stream, decoder)


def _decoder(stream: VideoStream) -> VideoCodecContext:
    """The decoder of a stream, including its alpha channel."""
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") != "1" or context.name not in _ALPHA_DECODERS:
        return context
    name = _ALPHA_DECODERS[context.name]
    try:
        decoder: Any = av.CodecContext.create(name, "r")
    except av.codec.codec.UnknownCodecError:
        raise Unreadable(f"its transparency needs the decoder {name}, which PyAV was built without") from None
    return decoder


def timed_frames(frames: Iterator[VideoFrame], *, sought: float | None) -> Iterator[tuple[float, VideoFrame]]:
    """Yield times and frames after a seek for a frame that starts at the time `sought`, at most; None without a seek.

    Raises:
        UnreliableTimes: times are missing or decrease, or a seek leads past the frame, or to one that depends on
            earlier ones.
    """
    latest = -np.inf
    for frame in frames:
        if frame.time is None or frame.time < latest:
            raise UnreliableTimes("its timestamps are missing or out of order")
        if sought is not None and latest == -np.inf and (frame.time > sought or not frame.key_frame):
            raise UnreliableTimes("its frames are not at the times given in its header")
        latest = frame.time
        yield latest, frame


def header_timeline(video: OpenVideo) -> Timeline:
    """The timeline given in the file's header. Raises ValueError if it has no duration."""
    stream, rate = video.stream, video.rate
    duration = header_duration(video)
    if duration is None:
        raise ValueError("no duration in its header")
    start = float((stream.start_time or 0) * (stream.time_base or 0))
    return Timeline(start, start + duration, stream.frames or round(duration * rate), rate)


def header_duration(video: OpenVideo) -> float | None:
    """The duration in seconds that the file's header gives."""
    stream, container = video.stream, video.container
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


def packet_timeline(video: OpenVideo) -> Timeline:
    """The timeline given by all packets, which are read but not decoded.

    Raises:
        UnreliableTimes: times are missing, repeated, from several clocks, or in decoding instead of display order.
    """
    pts: list[float] = []
    dts: list[float] = []
    duration = 0.0
    for packet in video.container.demux(video.stream):
        if not packet.size:
            continue
        if packet.pts is None or len(pts) >= MAX_FRAMES:
            raise UnreliableTimes("packets without display times")
        pts.append(float(packet.pts * packet.time_base))
        dts.append(pts[-1] if packet.dts is None else float(packet.dts * packet.time_base))
        duration = float(packet.duration * packet.time_base) if packet.duration else 0.0
    steps = np.diff(dts)
    if not pts or (steps < 0).any() or (steps > video.max_gap).any() or len(set(pts)) < len(pts):
        raise UnreliableTimes("its timestamps are out of order")
    times = sorted(pts)
    if video.stream.codec_context.has_b_frames and times == pts:
        raise UnreliableTimes("its timestamps are in decoding order")
    return _timeline(times, duration, video.rate)


def counted_timeline(video: OpenVideo, frames: Iterator[VideoFrame]) -> Timeline:
    """The timeline of all frames of a file, given in display order. Raises ValueError if there are none."""
    pts, dts, durations = [], [], []
    for frame in frames:
        pts.append(frame.time)
        dts.append(None if frame.dts is None or not frame.time_base else float(frame.dts * frame.time_base))
        durations.append(video.duration(frame))
    if not pts:
        raise ValueError("no frames in it")
    times = display_times(pts, dts, float(np.median(durations)), max_gap=video.max_gap)
    return _timeline(times, durations[-1], video.rate)


def _timeline(times: list[float], last_duration: float, rate: float) -> Timeline:
    mean = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / rate
    return Timeline(times[0], times[-1] + (last_duration or mean), len(times), 1 / mean, tuple(times))


def display_times(
    pts: Sequence[float | None], dts: Sequence[float | None], frame_duration: float, *, max_gap: float = np.inf
) -> list[float]:
    """Restore increasing display times of frames in display order from their timestamps in seconds.

    The presentation times are used, or the decoding times if fewer of these are missing or out of order. A step back,
    or one by more than `max_gap`, is a new clock, which starts one frame after the last. Missing times are
    interpolated, or extrapolated by the median difference (`frame_duration` if there is none).
    """
    stamps = min((pts, dts), key=_faults)
    known_stamps = [(i, stamp) for i, stamp in enumerate(stamps) if stamp is not None]
    steps = [(b - a) / (j - i) for (i, a), (j, b) in pairwise(known_stamps)]
    regular = [step for step in steps if 0 < step <= max_gap]
    gap = float(np.median(regular)) if regular else frame_duration
    if not known_stamps:
        return [i * gap for i in range(len(stamps))]
    (last_index, last_stamp), offset = known_stamps[0], 0.0
    indices, times = [last_index], [last_stamp]
    for index, stamp in known_stamps[1:]:
        if not 0 <= stamp - last_stamp <= max_gap:
            offset = times[-1] + (index - indices[-1]) * gap - stamp
        if stamp + offset > times[-1]:
            indices.append(index)
            times.append(stamp + offset)
        last_stamp = stamp
    before = [times[0] - gap * k for k in range(indices[0], 0, -1)]
    after = [times[-1] + gap * (k + 1) for k in range(len(stamps) - 1 - indices[-1])]
    inner = np.interp(np.arange(indices[0], indices[-1] + 1), indices, times).tolist()
    return before + inner + after


def _faults(stamps: Sequence[float | None]) -> int:
    """The number of timestamps that are missing or not later than the previous one.

    Decoders leave out the decoding times of the last frames, so that missing ones at the end are not counted if they
    are fewer than the others.
    """
    count, previous = 0, -np.inf
    for stamp in stamps:
        count += stamp is None or stamp <= previous
        previous = previous if stamp is None else stamp
    missing_at_end = len(list(takewhile(lambda stamp: stamp is None, reversed(stamps))))
    return count - missing_at_end if 2 * missing_at_end < len(stamps) else count
