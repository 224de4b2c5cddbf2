import io
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ulzoo.data.source import Placement, Unreadable
from ulzoo.data.videos import decode as video_decode
from ulzoo.data.videos import timeline
from ulzoo.data.videos.decode import UnreadableVideo, first_frame, read_clip

MakeVideo = Callable[..., bytes]
Numbers = Callable[[Tensor], list[int]]


def read(file: bytes | str | Path, frames: int = 4, resolution: int = 16, **keys: Any) -> Tensor:
    placement = Placement(keys.pop("position", None), keys.pop("crop", 0.5))
    return read_clip(file, "a.mp4", placement=placement, **{"frames": frames, "resolution": resolution, **keys})


def refused(message: str, file: bytes | str | Path, **keys: Any) -> None:
    with pytest.raises(UnreadableVideo, match=rf"^a\.mp4: .*{message}") as error:
        read(file, **keys)
    assert "\n" not in str(error.value) and isinstance(error.value, Unreadable)


# Frames


def test_the_middle_clip_and_others(make_video: MakeVideo, frame_numbers: Numbers, tmp_path: Path) -> None:
    video = make_video(24)
    clip = read(video)
    assert clip.shape == (3, 4, 16, 16) and clip.dtype == torch.uint8 and clip.is_contiguous()
    assert frame_numbers(clip) == [10, 11, 12, 13]
    for first, position in ((0, 0.0), (7, 7.5 / 21), (20, 1 - 1e-9)):
        assert frame_numbers(read(video, position=position)) == list(range(first, first + 4))
    (tmp_path / "b.mp4").write_bytes(video)
    assert torch.equal(read(tmp_path / "b.mp4"), clip) and torch.equal(read(str(tmp_path / "b.mp4")), clip)


def test_a_stride(make_video: MakeVideo, frame_numbers: Numbers) -> None:
    assert frame_numbers(read(make_video(24), stride=5, position=0.0)) == [0, 5, 10, 15]
    assert frame_numbers(read(make_video(24), stride=5, position=1 - 1e-9)) == [8, 13, 18, 23]
    refused("too short: a clip spans 25 frames, the video has 24", make_video(24), stride=8)


@pytest.mark.parametrize("frames", [1, 24])
def test_shortest_and_longest_clip(make_video: MakeVideo, frame_numbers: Numbers, frames: int) -> None:
    assert len(frame_numbers(read(make_video(24), frames=frames))) == frames
    refused("too short: a clip spans 25 frames, the video has 24", make_video(24), frames=25)


@pytest.mark.parametrize(("frame_rate", "numbers"), [(8, range(24)), (4, range(0, 24, 2)), (16, np.arange(48) // 2)])
def test_another_frame_rate(make_video: MakeVideo, frame_numbers: Numbers, frame_rate: float, numbers: Any) -> None:
    numbers = list(numbers)
    for position in (0.0, 0.4, 1 - 1e-9):
        first = first_frame(len(numbers), 6, position)
        clip = read(make_video(24), frames=6, frame_rate=frame_rate, position=position)
        assert frame_numbers(clip) == numbers[first : first + 6]
    refused(
        f"spans {len(numbers) + 1} frames, the video has {len(numbers)}",
        make_video(24),
        frames=len(numbers) + 1,
        frame_rate=frame_rate,
    )


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_variable_frame_rate(make_video: MakeVideo, frame_numbers: Numbers, container: str) -> None:
    """Resampled, the frames displayed at regular times; otherwise, the frames in order."""
    times = [0, 100, 200, 300, 1000, 1100, 2000, 2050, 2100, 2150, 2200, 2300]
    video = make_video(12, times=times, container=container)
    shown = [max(i for i, t in enumerate(times) if t <= time) for time in range(0, 2251, 250)]
    assert shown == [0, 2, 3, 3, 4, 5, 5, 5, 6, 10]
    assert frame_numbers(read(video, frames=9, frame_rate=4, position=0.0)) == shown[:9]
    for position in (0.0, 0.5, 1 - 1e-9):
        numbers = frame_numbers(read(video, frames=6, position=position))
        assert numbers == list(range(numbers[0], numbers[0] + 6))


@pytest.mark.parametrize("rate", [24, 30])
def test_times_that_matroska_rounds_to_milliseconds_repeat_no_frame(
    make_video: MakeVideo, frame_numbers: Numbers, rate: int
) -> None:
    video = make_video(28, rate=rate, container="matroska")
    assert frame_numbers(read(video, frames=28, frame_rate=rate)) == list(range(28))
    assert frame_numbers(read(video, frames=14, frame_rate=rate / 2)) == list(range(0, 28, 2))


@pytest.mark.parametrize("gop", ["1", "5", "250"])
@pytest.mark.parametrize("frame_rate", [None, 8])
def test_seeking_gives_the_same_frames(
    make_video: MakeVideo, gop: str, frame_rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = make_video(28, options={"g": gop, "bf": "2"})
    sought = [read(video, position=k / 25, frame_rate=frame_rate) for k in range(25)]
    monkeypatch.setattr(
        video_decode, "header_timeline", lambda *_: (_ for _ in ()).throw(ValueError)
    )  # counts frames instead
    assert all(torch.equal(clip, read(video, position=k / 25, frame_rate=frame_rate)) for k, clip in enumerate(sought))


@pytest.mark.parametrize("container", ["h264", "mpegts", "avi", "matroska"])
def test_files_without_an_index_or_a_length(make_video: MakeVideo, frame_numbers: Numbers, container: str) -> None:
    video = make_video(24, container=container, options={"g": "6", "bf": "0"})
    for first, position in ((0, 0.0), (10, None), (20, 1 - 1e-9)):
        numbers = frame_numbers(read(video, position=position))
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        assert abs(numbers[0] - first) <= (container == "avi")  # timestamps of AVI may be late by a frame


def test_a_start_other_than_zero(make_video: MakeVideo, frame_numbers: Numbers) -> None:
    video = make_video(24, times=[5000 + 125 * i for i in range(24)], container="matroska")
    assert frame_numbers(read(video)) == [10, 11, 12, 13]
    assert frame_numbers(read(video, frame_rate=4)) == [8, 10, 12, 14]


# Pixels


def halves(i: int) -> np.ndarray:
    """Red on the left, blue on the right, and a green stripe on top."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, :24], pixels[:, 24:], pixels[:4] = (200, 0, 0), (0, 0, 200), (0, 200, 0)
    return pixels


def test_colours_size_and_crop(make_video: MakeVideo) -> None:
    clip = read(make_video(4, picture=halves, pix_fmt="yuv444p"), resolution=32)
    expected = torch.from_numpy(halves(0)[:, 8:40].copy()).permute(2, 0, 1)
    inner = [(20, 4), (20, 27), (1, 16)]
    for y, x in inner:
        assert (clip[:, 0, y, x].int() - expected[:, y, x].int()).abs().max() <= 4


@pytest.mark.parametrize(
    "turn", [(90,), (180,), (270,), (0, True), (0, False, True), (90, True), (270, True), (90, False, True)]
)
def test_the_display_matrix_is_applied(make_video: MakeVideo, turn: tuple) -> None:
    degrees, hflip, vflip = (*turn, False, False)[:3]
    plain = read(make_video(4, picture=halves, pix_fmt="yuv444p"), resolution=32)
    rotated = read(make_video(4, picture=halves, pix_fmt="yuv444p", rotation=turn), resolution=32)
    expected = torch.rot90(plain, degrees // 90, (-2, -1))
    expected = expected.flip(-1) if hflip else expected
    expected = expected.flip(-2) if vflip else expected
    assert torch.equal(rotated, expected) and not torch.equal(rotated, plain)


def test_non_square_pixels(make_video: MakeVideo) -> None:
    """Pixels twice as wide as high: 24×32 of them are displayed at 48×32."""
    wide = lambda i: halves(i)[:, ::2]  # noqa: E731
    options = {"picture": wide, "pix_fmt": "yuv444p"}
    clip = read(make_video(4, **options, options={"aspect": "3:2"}, sample_aspect_ratio=2), resolution=32)
    square = read(make_video(4, picture=halves, pix_fmt="yuv444p"), resolution=32)
    assert (clip.int() - square.int()).abs().float().mean() < 3
    assert (read(make_video(4, **options), resolution=32).int() - square.int()).abs().float().mean() > 10


@pytest.mark.parametrize(("width", "height"), [(33, 17), (17, 33), (3, 64), (64, 3), (5, 5), (63, 64)])
def test_odd_sizes(make_video: MakeVideo, frame_numbers: Numbers, width: int, height: int) -> None:
    video = make_video(6, picture=lambda i: grey(i, width, height), codec="ffv1", pix_fmt="bgr0", container="matroska")
    assert frame_numbers(read(video, resolution=16)) == [1, 2, 3, 4]


def grey(i: int, width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 16 + 8 * i, np.uint8)


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("ffv1", "gray"), ("ffv1", "gray16le"), ("libx264", "yuv420p10le"), ("ffv1", "rgba64le"), ("ffv1", "yuv444p16le")],
)
def test_grey_and_more_than_8_bits(make_video: MakeVideo, frame_numbers: Numbers, codec: str, pix_fmt: str) -> None:
    video = make_video(6, codec=codec, pix_fmt=pix_fmt, container="matroska")
    clip = read(video)
    assert frame_numbers(clip) == [1, 2, 3, 4]
    assert (clip.float() - clip.float().mean((0, 2, 3), keepdim=True)).abs().max() <= 3


def test_transparency_is_composited_over_white(make_video: MakeVideo) -> None:
    def picture(i: int) -> np.ndarray:
        return np.repeat(
            np.array([[[100, 0, 50, 0]], [[100, 0, 50, 128]], [[100, 0, 50, 255]]], np.uint8), 16, 0
        ).repeat(48, 1)

    video = make_video(4, picture=picture, codec="ffv1", pix_fmt="bgra", container="matroska", source_format="rgba")
    clip = read(video, resolution=48)
    for y, alpha in ((4, 0), (24, 128), (44, 255)):
        expected = [round((value * alpha + 255 * (255 - alpha)) / 255) for value in (100, 0, 50)]
        assert np.abs(clip[:, 0, y, 24].numpy().astype(int) - expected).max() <= 1


def test_shrinking_averages(make_video: MakeVideo) -> None:
    """A fine checkerboard becomes uniform grey, without aliasing."""
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    clip = read(
        make_video(4, picture=lambda i: board, codec="ffv1", pix_fmt="bgr0", container="matroska"), resolution=16
    )
    assert (clip.float() - 127.5).abs().max() < 8


def test_hd_and_full_range_colours(make_video: MakeVideo) -> None:
    """Colors are converted by the matrix and range of the file."""
    for space, color_range in ((1, 1), (1, 2), (5, 1), (5, 2)):  # BT.709 or 601, limited or full

        def picture(i: int) -> np.ndarray:
            return np.broadcast_to(np.array([180, 60, 20], np.uint8), (32, 48, 3))

        file = io.BytesIO()
        with av.open(file, "w", format="matroska") as output:
            stream = output.add_stream("ffv1", rate=8)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p"
            stream.codec_context.colorspace, stream.codec_context.color_range = space, color_range
            for i in range(4):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(i)), format="rgb24")
                frame = frame.reformat(format="yuv444p", dst_colorspace=space, dst_color_range=color_range)
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        clip = read(file.getvalue())
        assert np.abs(clip[:, 0, 8, 8].numpy().astype(int) - (180, 60, 20)).max() <= 3, (space, color_range)


# Errors


def audio(with_cover: bool = False) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    if not with_cover:
        return file.getvalue()
    cover = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(cover, "PNG")
    picture = b"\x00image/png\x00\x03\x00" + cover.getvalue()
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
    size = len(frame)
    tag = b"ID3\x03\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0)) + frame
    return tag + (b"\xff\xfb\x90\x64" + bytes(413)) * 40  # silent MPEG audio


@pytest.mark.parametrize("with_cover", [False, True])
def test_audio_only(with_cover: bool) -> None:
    file = audio(with_cover)
    with av.open(io.BytesIO(file)) as opened:
        assert len(opened.streams.audio) == 1 and len(opened.streams.video) == int(with_cover)
    refused("no video in it", file, frames=1)


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 4096, bytes(range(256)) * 40])
def test_no_video_at_all(content: bytes, tmp_path: Path) -> None:
    refused("", content)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    refused("", path)


def test_a_missing_file(tmp_path: Path) -> None:
    refused("No such file", tmp_path / "absent.mp4")
    refused("Is a directory", tmp_path)


def test_truncated(make_video: MakeVideo, frame_numbers: Numbers) -> None:
    """Without its index a file cannot be read; with the index in front, clips before the end can."""
    noise = np.random.default_rng(0).integers(0, 256, (28, 32, 48, 3), np.uint8)
    picture = noise.__getitem__
    behind = make_video(28, picture=picture)
    refused("Invalid data", behind[: len(behind) // 2])
    in_front = make_video(28, picture=picture, container_options={"movflags": "faststart"})
    cut = in_front[: len(in_front) // 2]
    assert torch.equal(read(cut, position=0.0), read(in_front, position=0.0))
    with pytest.raises(UnreadableVideo):
        read(cut, frames=24)


def test_damage_is_not_concealed(make_video: MakeVideo) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 48, 3), np.uint8)
    video = bytearray(make_video(24, picture=noise.__getitem__, options={"g": "4"}))
    middle = len(video) // 2
    video[middle : middle + 2000] = b"\xff" * 2000
    refused("", bytes(video), frames=20)
    assert read(bytes(video), position=0.0).shape == (3, 4, 16, 16)  # before the damage


def test_limits(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_decode, "MAX_DECODED", 48 * 32 * 10)
    assert read(make_video(24), position=0.0).shape == (3, 4, 16, 16)
    refused("takes decoding more than 0 billion pixels", make_video(24), position=0.9)
    monkeypatch.setattr(video_decode, "MAX_FRAMES", 23)
    refused("longer than 23 frames: split it into parts", make_video(24), position=0.0)
    monkeypatch.setattr(timeline, "MAX_PIXELS", 48 * 32 - 1)
    refused("", make_video(24), position=0.0)


def test_too_long_and_thin(make_video: MakeVideo) -> None:
    video = make_video(4, picture=lambda i: grey(i, 4000, 2), codec="ffv1", pix_fmt="bgr0", container="matroska")
    refused("too long and thin: 4000×2", video, resolution=256)


def test_an_index_of_a_million_frames_in_a_small_file(make_video: MakeVideo) -> None:
    """Frames of one byte each: without the limit, seeking in FFmpeg would take minutes."""
    video = bytearray(make_video(24))
    for box, at, values in ((b"stsz", 8, (1, 10**6)), (b"stsc", 16, (10**6,)), (b"stts", 12, (10**6, 1))):
        assert video.count(box) == 1
        struct.pack_into(f">{len(values)}I", video, video.index(box) + at, *values)
    refused("longer than 262144 frames", bytes(video))


def test_titles_in_another_encoding_are_harmless(make_video: MakeVideo, frame_numbers: Numbers) -> None:
    video = make_video(24)
    assert video.count(b"Lavf") == 1
    assert frame_numbers(read(video.replace(b"Lavf", b"\xff\xfe\xe9\xc3"))) == [10, 11, 12, 13]


def test_a_playlist_opens_no_other_file(make_video: MakeVideo, tmp_path: Path) -> None:
    (tmp_path / "secret.ts").write_bytes(make_video(24, container="mpegts"))
    (tmp_path / "secret.mp4").write_bytes(make_video(24))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n".encode()
    for content in (playlist, concat):
        for name in ("a.mp4", "a.m3u8"):
            (tmp_path / name).write_bytes(content)
            refused("", tmp_path / name)
        refused("", content)


def test_names_cannot_break_a_line(make_video: MakeVideo) -> None:
    with pytest.raises(UnreadableVideo) as error:
        read_clip(b"", "a\n\x1b[31mb.mp4", frames=4, resolution=16)
    assert str(error.value).isprintable()


def test_first_frame() -> None:
    assert [first_frame(10, 4, position) for position in (0.0, 0.5, 1 - 1e-12)] == [0, 3, 6]
    assert first_frame(10, 4, None) == 3 and first_frame(4, 4, 0.99) == 0
    assert {first_frame(7, 4, k / 100) for k in range(100)} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="too short"):
        first_frame(3, 4, 0.0)


@pytest.mark.parametrize("tall", [False, True])
def test_crops_along_the_longer_side(make_video: MakeVideo, tall: bool) -> None:
    def thirds(i: int) -> np.ndarray:
        picture = np.repeat(np.array([20, 120, 220], np.uint8), 32)[None, :, None].repeat(32, 0).repeat(3, 2)
        return picture.transpose(1, 0, 2).copy() if tall else picture

    video = make_video(6, picture=thirds)
    means = [float(read(video, crop=crop).float().mean()) for crop in (0.0, 0.5, 1.0)]
    assert means == pytest.approx([20, 120, 220], abs=3)
    assert torch.equal(read(video, crop=0.5), read(video))
