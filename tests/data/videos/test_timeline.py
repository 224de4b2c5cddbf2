"""Frames in display order at increasing times, whatever the codec and container: each frame shows its number."""

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from torch import Tensor

from ulzoo.data.source import Placement
from ulzoo.data.videos import timeline
from ulzoo.data.videos.decode import UnreadableVideo, first_frame, read_clip
from ulzoo.data.videos.timeline import display_times

MakeVideo = Callable[..., bytes]
FRAMES, RATE = 24, 8
POSITIONS = (0.0, 0.3, None, 0.8, 1 - 1e-9)

X265 = "log-level=none:pools=none:keyint=7:min-keyint=7:bframes="
VP9 = {"deadline": "good", "cpu-used": "5", "g": "7"}
CODECS: dict[str, dict[str, Any]] = {
    "H.264": {"codec": "libx264", "options": {"g": "7", "bf": "0"}},
    "H.264 with B-frames": {"codec": "libx264", "options": {"g": "7", "bf": "2"}},
    "H.264 with open groups": {
        "codec": "libx264",
        "options": {"x264-params": "open-gop=1:keyint=7:bframes=3:b-adapt=0"},
    },
    "HEVC": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": f"{X265}0"}},
    "HEVC with B-frames": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": f"{X265}3"}},
    "VP8": {"codec": "libvpx", "options": {"deadline": "realtime", "g": "7"}},
    "VP9": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "7"}},
    "VP9 with hidden frames": {"codec": "libvpx-vp9", "options": {**VP9, "auto-alt-ref": "1", "lag-in-frames": "16"}},
    "AV1": {"codec": "libsvtav1", "options": {"preset": "12", "g": "7"}},
    "MPEG-2 with B-frames": {"codec": "mpeg2video", "rate": 25, "options": {"g": "7", "bf": "2"}},
    "MPEG-4": {"codec": "mpeg4", "options": {"g": "7", "bf": "0"}},
    "MPEG-4 with B-frames": {"codec": "mpeg4", "options": {"g": "7", "bf": "2"}},
    "MJPEG": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "GIF": {"codec": "gif", "pix_fmt": "rgb8"},
}
CONTAINERS = ["mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "gif", "h264"]


def numbered(i: int) -> np.ndarray:
    """A picture (48, 64, 3) of its number: six blocks, white for a bit that is set."""
    bits = np.array([i >> b & 1 for b in range(6)], np.uint8).reshape(2, 3) * 255
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, 8:56] = bits.repeat(24, 0).repeat(16, 1)[..., None]
    return picture


def numbers(clip: Tensor) -> list[int]:
    """The numbers of the frames in a clip (3, T, 48, 48) of `numbered` pictures."""
    levels = clip.float().mean(0).unfold(1, 24, 24).unfold(2, 16, 16)[..., 6:18, 4:12].mean((-1, -2))
    return [int(sum(2**b * bool(level > 128) for b, level in enumerate(frame.flatten()))) for frame in levels]


def read(video: bytes, position: float | None, frame_rate: float | None, frames: int = 6) -> list[int]:
    return numbers(
        read_clip(video, "a", frames=frames, resolution=48, placement=Placement(position), frame_rate=frame_rate)
    )


def encoded(make_video: MakeVideo, codec: str, container: str, **keys: Any) -> bytes:
    """A video of numbered pictures; the test is skipped if this PyAV cannot write it, or writes no video stream."""
    settings = {"rate": RATE, "picture": numbered, **CODECS[codec], **keys}
    try:
        video = make_video(settings.pop("n", FRAMES), container=container, **settings)
    except (ValueError, av.FFmpegError) as error:
        pytest.skip(f"cannot be encoded: {' '.join(str(error).split())}")
    with av.open(io.BytesIO(video)) as file:
        expected = av.codec.Codec(settings["codec"], "w").canonical_name
        contexts = [stream.codec_context for stream in file.streams.video]
        if [context and context.codec.canonical_name for context in contexts] != [expected]:
            pytest.skip(f"{container} carries {codec} as data")
    return video


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("codec", CODECS)
def test_frames_are_those_displayed(make_video: MakeVideo, codec: str, container: str) -> None:
    video = encoded(make_video, codec, container)
    rate = CODECS[codec].get("rate", RATE)
    for frame_rate, shown in (
        (None, range(FRAMES)),
        (rate, range(FRAMES)),
        (rate / 2, range(0, FRAMES, 2)),
        (rate * 2, np.arange(2 * FRAMES) // 2),
    ):
        for position in POSITIONS:
            first = first_frame(len(shown), 6, position)
            assert read(video, position, frame_rate) == list(shown)[first : first + 6], (frame_rate, position)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("H.264", "mpegts"),
        ("H.264 with B-frames", "mpegts"),
        ("MPEG-4 with B-frames", "mpegts"),
        ("MPEG-2 with B-frames", "mpeg"),
        ("HEVC", "mpegts"),
        ("H.264 with B-frames", "h264"),
    ],
)
def test_a_clock_that_restarts(make_video: MakeVideo, codec: str, container: str, parts: int) -> None:
    n = FRAMES // parts
    video = b"".join(
        encoded(make_video, codec, container, n=n, picture=lambda i, k=k: numbered(i + k * n)) for k in range(parts)
    )
    rate = CODECS[codec].get("rate", RATE)
    for position in POSITIONS:
        for frame_rate in (None, rate):
            first = first_frame(FRAMES, 6, position)
            assert read(video, position, frame_rate) == list(range(first, first + 6)), (frame_rate, position)


def test_a_clock_that_jumps_ahead(make_video: MakeVideo) -> None:
    """A gap of minutes in MPEG-TS is a new clock; in Matroska, a frame that is displayed for minutes."""
    times = [125 * i + 300_000 * (i >= 12) for i in range(FRAMES)]
    video = make_video(FRAMES, picture=numbered, times=times, container="mpegts")
    assert read(video, 0.0, RATE, FRAMES) == list(range(FRAMES))
    video = make_video(FRAMES, picture=numbered, times=times, container="matroska")
    assert read(video, 0.0, 0.1, 30) == [0] + [11] * 29


@pytest.mark.parametrize("container", ["gif", "matroska", "mp4"])
def test_variable_rate(make_video: MakeVideo, container: str) -> None:
    times = [0, 100, 300, 400, 800, 900, 1000, 1500, 1600, 1700, 2300, 2400, 2500, 2600, 2800, 2900, 3000, 3100]
    codec = CODECS["GIF" if container == "gif" else "H.264 with B-frames"]
    video = make_video(len(times), picture=numbered, times=times, container=container, **codec)
    assert read(video, None, None, len(times)) == list(range(len(times)))
    ticks = range(0, 3100, 100)
    shown = [max(i for i, time in enumerate(times) if time <= tick) for tick in ticks]
    for position in (0.0, 0.9):
        clip = read(video, position, 10, 20)
        assert clip in [shown[first : first + 20] for first in range(len(shown))]
        assert position or clip == shown[:20]


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
@pytest.mark.parametrize("container", ["webm", "matroska"])
def test_transparent_webm_is_composited_over_white(make_video: MakeVideo, codec: str, container: str) -> None:
    def half(i: int) -> np.ndarray:
        picture = np.zeros((32, 64, 4), np.uint8)
        picture[:, :32] = (200, 0, 0, 255)
        return picture

    options = {"auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "8", "g": "4"}
    keys = {"codec": codec, "container": container, "pix_fmt": "yuva420p", "options": options}
    video = make_video(12, picture=half, source_format="rgba", **keys)
    for position in (0.0, 0.9):
        for frame_rate in (None, 4.0):
            clip = read_clip(video, "a", frames=4, resolution=32, placement=Placement(position), frame_rate=frame_rate)
            assert np.abs(clip[:, :, 16, 4].T.numpy().astype(int) - (200, 0, 0)).max() < 8
            assert (clip[:, :, 16, 28] >= 253).all()


def test_transparency_that_cannot_be_decoded_is_an_error(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "_ALPHA_DECODERS", {"vp9": "absent"})
    options = {"auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "8"}
    video = make_video(6, codec="libvpx-vp9", container="webm", pix_fmt="yuva420p", options=options)
    with pytest.raises(UnreadableVideo, match="transparency needs the decoder absent"):
        read_clip(video, "a", frames=4, resolution=32)


@pytest.mark.parametrize(
    ("pts", "dts", "times"),
    [
        ([0, 1, 3], [None] * 3, [0, 1, 3]),  # variable rate
        ([5, 6, 7], [4, 5, 6], [5, 6, 7]),
        ([None] * 3, [None] * 3, [0, 0.5, 1]),  # no timestamps: by the frame duration
        ([1, 3, 4, 2, 6], [2, 3, 4, 5, 6], [2, 3, 4, 5, 6]),  # in decoding order
        ([1, 3, 4, 2, 6], [2, 3, 4, None, None], [2, 3, 4, 5, 6]),
        ([None, None, 2, None, 6, None], [None] * 6, [-2, 0, 2, 4, 6, 8]),  # some are missing
        ([0, 1, 2, 0, 1, 2, 0, 1], [None] * 8, list(range(8))),  # a clock that restarts
        ([0, 1, 2, None, 0, 1], [None] * 6, list(range(6))),
        ([0, 1, 1, 2], [None] * 4, [0, 1, 1.5, 2]),  # repeated
        ([0, 1, 100, 101], [None] * 4, [0, 1, 2, 3]),  # a gap beyond max_gap
        ([7], [None], [7]),
    ],
)
def test_display_times(pts: list, dts: list, times: list) -> None:
    assert display_times(pts, dts, 0.5, max_gap=50) == times


def test_random_timestamps_become_increasing_times() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        n = int(rng.integers(1, 12))
        pts, dts = ([float(t) if rng.random() < 0.7 else None for t in rng.integers(-5, 20, n)] for _ in range(2))
        times = display_times(pts, dts, float(Fraction(1, 8)), max_gap=rng.choice([4.0, np.inf]))
        assert len(times) == n and (np.diff(times) > 0).all()
