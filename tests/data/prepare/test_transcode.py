import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from torch import Tensor

from ulzoo.data.prepare.transcode import KEYFRAME_EVERY, VideoEncoding, transcode
from ulzoo.data.source import Unreadable
from ulzoo.data.videos.decode import read_clip

MakeVideo = Callable[..., bytes]
SMALL = VideoEncoding(16)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], str]:
    def write(content: bytes) -> str:
        (tmp_path / "video").write_bytes(content)
        return str(tmp_path / "video")

    return write


def frames(content: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(content)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        return list(container.decode(video=0))


def greys(content: bytes) -> list[int]:
    """The numbers of the frames in a transcoded `grey` video."""
    return [round((frame.to_ndarray(format="rgb24").mean() - 16) / 8) for frame in frames(content)]


def times(content: bytes) -> list[float]:
    return [round(frame.time or 0.0, 3) for frame in frames(content)]


def test_a_video_keeps_its_frames_and_times(make_video: MakeVideo, file: Callable) -> None:
    shown = [0, 125, 250, 600, 1000, 2000]
    clip = transcode(file(make_video(6, times=shown)), 0, 10, SMALL, trimmed=True)
    assert greys(clip) == list(range(6))
    assert times(clip) == [t / 1000 for t in shown]
    decoded = frames(clip)
    assert (decoded[0].width, decoded[0].height) == (24, 16)
    assert decoded[0].format.name == "yuv444p"


def test_a_segment_of_a_full_video(make_video: MakeVideo, file: Callable) -> None:
    path = file(make_video(24, rate=2))  # twelve seconds
    clip = transcode(path, 4, 7, SMALL, trimmed=False)
    assert greys(clip) == [8, 9, 10, 11, 12, 13] and times(clip)[:2] == [0, 0.5]
    assert greys(transcode(path, 4.2, 5.2, SMALL, trimmed=False)) == [8, 9, 10]  # frame 8 is displayed at 4.2 s
    assert greys(transcode(path, 4, 7, SMALL, trimmed=True)) == list(range(6))  # three seconds from the start
    assert greys(transcode(path, 20, 31.5, SMALL, trimmed=False)) == list(
        range(23)
    )  # short enough to be trimmed already
    with pytest.raises(Unreadable, match="fewer than two frames"):
        transcode(path, 20, 30, SMALL, trimmed=False)


def test_a_frame_rate_selects_the_displayed_frames(make_video: MakeVideo, file: Callable) -> None:
    clip = transcode(file(make_video(8, rate=8)), 0, 1, VideoEncoding(16, 4.0), trimmed=True)
    assert (greys(clip), times(clip)) == ([0, 2, 4, 6], [0, 0.25, 0.5, 0.75])
    clip = transcode(file(make_video(4, rate=4)), 0, 1, VideoEncoding(16, 8.0), trimmed=True)
    assert greys(clip) == [0, 0, 1, 1, 2, 2, 3, 3]
    variable = make_video(4, times=[0, 100, 700, 800])
    clip = transcode(file(variable), 0, 1, VideoEncoding(16, 10.0), trimmed=True)
    assert greys(clip)[:9] == [0, 1, 1, 1, 1, 1, 1, 2, 3]
    assert times(clip) == pytest.approx([i / 10 for i in range(len(times(clip)))])


ORDERS = {
    "B-frames in AVI": {"container": "avi", "options": {"g": "6", "bf": "2"}},
    "MPEG-4 with B-frames in AVI": {"container": "avi", "codec": "mpeg4", "options": {"g": "6", "bf": "2", "b": "4M"}},
    "MPEG-4 in MPEG-TS": {"container": "mpegts", "codec": "mpeg4", "options": {"g": "6", "bf": "0"}},
    "AV1": {"container": "webm", "codec": "libsvtav1", "options": {"preset": "12", "g": "6"}},
}


@pytest.mark.parametrize("kind", ORDERS)
def test_frames_are_in_display_order(make_video: MakeVideo, file: Callable, kind: str) -> None:
    path = file(make_video(24, **ORDERS[kind]))
    clip = transcode(path, 0, 10, SMALL, trimmed=True)
    assert greys(clip) == list(range(24))
    assert times(clip) == [i / 8 for i in range(24)]
    assert greys(transcode(path, 1, 2, SMALL, trimmed=False)) == list(range(8, 16))
    assert greys(transcode(path, 0, 10, VideoEncoding(16, 4.0), trimmed=True)) == list(range(0, 24, 2))


@pytest.mark.parametrize("container", ["mpegts", "mpeg"])
def test_a_clock_that_restarts_loses_no_frames(make_video: MakeVideo, file: Callable, container: str) -> None:
    def part(first: int) -> bytes:
        picture = lambda i: np.full((32, 48, 3), 16 + 8 * (first + i), np.uint8)  # noqa: E731
        keys = {"codec": "mpeg2video", "rate": 25, "options": {"g": "6", "bf": "2"}}
        return make_video(8, picture=picture, container=container, **keys)

    path = file(part(0) + part(8) + part(16))
    clip = transcode(path, 0, 10, SMALL, trimmed=True)
    assert greys(clip) == list(range(24))
    assert times(clip) == pytest.approx([i / 25 for i in range(24)], abs=1e-3)
    assert greys(transcode(path, 0.4, 0.8, SMALL, trimmed=True)) == list(range(10))
    assert greys(transcode(path, 0, 10, VideoEncoding(16, 12.5), trimmed=True)) == list(range(0, 24, 2))


def test_transparent_webm_is_composited_over_white(make_video: MakeVideo, file: Callable) -> None:
    picture = lambda i: np.zeros((32, 48, 4), np.uint8)  # noqa: E731
    options = {"auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "8"}
    keys = {"codec": "libvpx-vp9", "pix_fmt": "yuva420p", "container": "webm", "options": options}
    clip = transcode(file(make_video(4, picture=picture, source_format="rgba", **keys)), 0, 1, SMALL, trimmed=True)
    assert all(frame.to_ndarray(format="rgb24").min() > 250 for frame in frames(clip))


def test_shape_is_that_of_a_player(make_video: MakeVideo, file: Callable) -> None:
    def half(i: int) -> np.ndarray:
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:, :32, 0] = 250  # red to the left
        return picture

    def first(**keys: object) -> np.ndarray:
        return frames(transcode(file(make_video(3, picture=half, **keys)), 0, 1, SMALL, trimmed=True))[0].to_ndarray(
            format="rgb24"
        )

    assert first().shape == (16, 32, 3)
    assert first()[8, 4, 0] > 200 and first()[8, 28, 0] < 50
    rotated = first(rotation=(90,))
    assert rotated.shape == (32, 16, 3)
    assert sorted([rotated[4, 8, 0] > 200, rotated[28, 8, 0] > 200]) == [False, True]
    assert first(sample_aspect_ratio=Fraction(1, 2)).shape == (16, 16, 3)
    assert first(sample_aspect_ratio=Fraction(13, 10)).shape == (16, 42, 3)


@pytest.mark.parametrize("colour", [(220, 30, 40), (20, 200, 60), (30, 40, 230), (250, 250, 250)])
@pytest.mark.parametrize("matrix", [1, 5])
def test_colors_are_kept_for_any_matrix(make_video: MakeVideo, file: Callable, colour: tuple, matrix: int) -> None:
    def plain(i: int) -> np.ndarray:
        return np.full((32, 32, 3), colour, np.uint8)

    source = make_video(3, picture=plain, colorspace=matrix)
    with av.open(io.BytesIO(source)) as container:
        before = next(container.decode(video=0)).to_ndarray(format="rgb24").mean((0, 1))
    after = frames(transcode(file(source), 0, 1, SMALL, trimmed=True))[0].to_ndarray(format="rgb24").mean((0, 1))
    np.testing.assert_allclose(after, before, atol=4)


def test_the_bytes_are_deterministic(file: Callable) -> None:
    rng = np.random.default_rng(0)
    noise = np.cumsum(rng.normal(0, 12, (40, 64, 96, 3)), 0)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for picture in np.clip(noise + 128, 0, 255).astype(np.uint8):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        output.mux(stream.encode())
    path = file(buffer.getvalue())
    contents = {transcode(path, 0, 4, VideoEncoding(64), trimmed=True) for _ in range(8)}
    assert len(contents) == 1
    assert sum(frame.key_frame for frame in frames(contents.pop())) >= 40 // KEYFRAME_EVERY


def sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def test_errors_give_the_reason(make_video: MakeVideo, file: Callable, tmp_path: Path) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\n{tmp_path}/other.mp4\n#EXT-X-ENDLIST\n".encode()
    (tmp_path / "other.mp4").write_bytes(make_video(8))
    cases = {
        b"": "End of file|Invalid data",
        b"hello": "End of file|Invalid data",
        make_video(8)[:1500]: "End of file|Invalid data",
        playlist: "Invalid",
        f"ffconcat version 1.0\nfile {tmp_path}/other.mp4\n".encode(): "Invalid",
        sound(): "no video in it",
        make_video(1): "fewer than two frames",
        make_video(12, rate=1000): "more than 250 frames per second",
    }
    for content, message in cases.items():
        with pytest.raises(Unreadable, match=message) as error:
            transcode(file(content), 0, 0.01 if "250" in message else 2, SMALL, trimmed=True)
        assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(Unreadable, match="No such file"):
        transcode(str(tmp_path / "absent"), 0, 1, SMALL, trimmed=True)


@pytest.mark.parametrize("keys", [{"resolution": 65}, {"resolution": 8}, {"resolution": -2}])
def test_a_resolution_must_be_even(keys: dict) -> None:
    with pytest.raises(ValueError, match="resolution must be an even number of at least 16"):
        VideoEncoding(**keys)


@pytest.mark.parametrize("rate", [0, -1, 251, float("nan"), float("inf")])
def test_a_frame_rate_must_be_in_range(rate: float) -> None:
    with pytest.raises(ValueError, match="frame_rate must be above 0 and at most 250"):
        VideoEncoding(64, rate)


def test_a_transcoded_clip_can_be_read(make_video: MakeVideo, file: Callable, frame_numbers: Callable) -> None:
    content = transcode(file(make_video(24)), 0, 3, SMALL, trimmed=True)
    clip: Tensor = read_clip(content, "clip", frames=8, resolution=16)
    assert frame_numbers(clip) == list(range(8, 16))


def texture(i: int) -> np.ndarray:
    """Coloured noise, with chroma as fine as luma."""
    return np.random.default_rng(i).integers(0, 256, (32, 48, 3)).astype(np.uint8)


@pytest.fixture
def textured(make_video: MakeVideo, file: Callable) -> str:
    return file(make_video(4, picture=texture, codec="libx264rgb", pix_fmt="rgb24", options={"crf": "0"}))


def test_lossless_clips_have_every_bit_through_the_reader(textured: str) -> None:
    clip = transcode(textured, 0, 1, VideoEncoding(32, pictures="lossless"), trimmed=True)
    for i, frame in enumerate(frames(clip)):
        np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), texture(i))
    read = read_clip(clip, "clip", frames=4, resolution=32)
    np.testing.assert_array_equal(read[:, 2], texture(2)[:, 8:40].transpose(2, 0, 1))


def test_the_default_keeps_colours_that_half_the_chroma_loses(textured: str) -> None:
    errors = {}
    for pictures in ("yuv444", "yuv420"):
        clip = transcode(textured, 0, 1, VideoEncoding(32, pictures=pictures), trimmed=True)
        decoded = [frame.to_ndarray(format="rgb24") for frame in frames(clip)]
        errors[pictures] = np.mean([(x - texture(i).astype(float)) ** 2 for i, x in enumerate(decoded)])
    assert errors["yuv444"] < 0.1 * errors["yuv420"]


def test_settings_of_earlier_versions() -> None:
    """A folder that was prepared before continues with `pictures: yuv420`."""
    earlier = {"resolution": 128, "frame_rate": None, "codec": "h264 yuv420p", "crf": 18, "keyframe_every": 16}
    assert VideoEncoding(128, pictures="yuv420").settings() == earlier
    assert VideoEncoding(128).settings() != earlier


def test_the_source_is_copied_untouched(make_video: MakeVideo, file: Callable) -> None:
    content, copy = make_video(24, rate=2), VideoEncoding(16, pictures="source")  # twelve seconds
    path = file(content)
    assert transcode(path, 5, 15, copy, trimmed=True) == content
    assert transcode(path, 20, 31.5, copy, trimmed=False) == content  # short enough to be trimmed already
    with pytest.raises(Unreadable, match="not trimmed to its segment"):
        transcode(path, 4, 7, copy, trimmed=False)
    with pytest.raises(Unreadable, match="fewer than two frames"):
        transcode(file(make_video(1)), 0, 1, copy, trimmed=True)
    with pytest.raises(Unreadable, match=r"End of file|Invalid data"):
        transcode(file(content[:1500]), 0, 1, copy, trimmed=True)
    with pytest.raises(ValueError, match="leave out frame_rate"):
        VideoEncoding(16, 8.0, pictures="source")
