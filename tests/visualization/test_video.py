"""Videos whose frames and durations are as intended, and contact sheets with every frame in its place."""

from collections import deque

import av
import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.visualization import Clips, save_contact_sheet, save_video
from ulzoo.visualization.image_grid import FRAME_COLOUR

ORANGE = tuple(int(FRAME_COLOUR[i : i + 2], 16) for i in (1, 3, 5))


def ramp(n: int = 1, frames: int = 6, size: tuple[int, int] = (8, 8), channels: int = 3) -> torch.Tensor:
    """n clips with frames of one grey that brightens with time; each clip starts a little brighter."""
    grey = torch.linspace(-1, 0.8, frames)[None] + 0.02 * torch.arange(n)[:, None]
    return grey[:, None, :, None, None].expand(n, channels, frames, *size)


def grey_of(clips: torch.Tensor, i: int, t: int) -> int:
    return round((clips[i, 0, t, 0, 0].item() + 1) * 127.5)


def read_video(path) -> tuple[list[np.ndarray], list[float]]:
    """The frames of a video, (H, W, 3) each, and the duration of each in milliseconds."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            (stream,) = container.streams
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            frames = [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(stream)]
            return frames, [1000 / float(stream.average_rate)] * len(frames)
    with Image.open(path) as image:
        assert image.info["loop"] == 0  # forever
        frames, durations = [], []
        for t in range(image.n_frames):
            image.seek(t)
            frames.append(np.asarray(image.convert("RGB")))
            image.load()
            durations.append(image.info["duration"])
        return frames, durations


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif"])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_video_has_every_frame_in_order(tmp_path, suffix, size):
    x, path = ramp(3, size=size), tmp_path / "deep" / f"video.{suffix}"
    save_video(path, [[Clips("", x)]], 5, min_side=16)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    frames, durations = read_video(path)
    assert len(frames) == 6 and durations == [200] * 6
    scale = -(-16 // max(size))
    height, width = size[0] * scale, size[1] * scale
    for t, frame in enumerate(frames):
        assert frame.shape[0] >= height + 8 and frame.shape[1] >= 3 * (width + 4) + 4
        for i in range(3):
            middle = frame[4 + height // 2, 4 + i * (width + 4) + width // 2]
            assert np.abs(middle.astype(int) - grey_of(x, i, t)).max() <= (0 if suffix == "webp" else 4)


def test_an_mp4_has_even_sides_and_keeps_colours(tmp_path):
    x = torch.full((1, 3, 4, 9, 9), -1.0)
    x[:, 0] = 0.6
    x[:, 2] = -0.2
    save_video(tmp_path / "video.mp4", [[Clips("", x)]], 8, min_side=1)
    frames, _ = read_video(tmp_path / "video.mp4")
    assert frames[0].shape == (18, 18, 3)  # 4 + 9 + 4, and one more
    assert np.abs(frames[2][8, 8].astype(int) - [204, 0, 102]).max() <= 6


@pytest.mark.parametrize("rate", [8, 29.97, 12.5])
def test_durations_follow_the_frame_rate(tmp_path, rate):
    for suffix in ("mp4", "webp", "gif"):
        save_video(tmp_path / f"video.{suffix}", [[Clips("", ramp(frames=40))]], rate, min_side=1)
        frames, durations = read_video(tmp_path / f"video.{suffix}")
        assert sum(durations) == pytest.approx(1000 * 40 / rate, abs=10)
        assert len(frames) == 40


@pytest.mark.parametrize(("suffix", "times"), [("mp4", 50), ("webp", 2), ("gif", 2)])
def test_the_same_clips_are_the_same_bytes(tmp_path, suffix, times):
    x = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path, rng = tmp_path / f"video.{suffix}", np.random.default_rng(0)
    contents, memory = set(), deque(maxlen=20)
    for _ in range(times):
        memory.append(np.full(rng.integers(300_000), rng.integers(256), np.uint8))  # the encoder's next, once freed
        save_video(path, [[Clips("title", x)]], 8)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_context_frames_have_a_coloured_frame(tmp_path):
    x = ramp()
    save_video(tmp_path / "video.webp", [[Clips("", x), Clips("", x, 2)]], 8, min_side=16)
    frames, _ = read_video(tmp_path / "video.webp")
    for t, frame in enumerate(frames):
        assert (tuple(frame[32, 2]) == ORANGE) == (t < 2)  # beside the second row
        assert tuple(frame[10, 2]) == (255, 255, 255)  # beside the first


def test_rows_of_many_clips_stay_together(tmp_path):
    x, y = ramp(9, size=(16, 16)), ramp(9, size=(16, 16)).flip(2)
    save_video(tmp_path / "video.webp", [[Clips("", x), Clips("", y)]], 8, min_side=16)
    frames, _ = read_video(tmp_path / "video.webp")
    assert frames[0].shape == (4 + 4 * 20, 4 + 8 * 20, 3)
    lefts = [frames[0][4 + 20 * row + 8, 12, 0] for row in range(4)]
    assert lefts == [grey_of(x, 0, 0), grey_of(y, 0, 0), grey_of(x, 8, 0), grey_of(y, 8, 0)]


def test_a_shorter_clip_ends_with_copies_of_its_last_frame(tmp_path):
    x = ramp(frames=6)
    save_video(tmp_path / "video.webp", [[Clips("", x)], [Clips("", x[:, :, :3])]], 8, min_side=16)
    frames, _ = read_video(tmp_path / "video.webp")
    assert frames[5][30, 10, 0] == grey_of(x, 0, 2) and frames[5][10, 10, 0] == grey_of(x, 0, 5)


def test_a_contact_sheet_has_a_row_per_clip_below_its_ground_truth(tmp_path):
    x, y = ramp(2, size=(16, 16)), ramp(2, size=(16, 16)).flip(2)
    band = [Clips("truth", x, notes=["a", "b"]), Clips("model", y, 2)]
    save_contact_sheet(tmp_path / "sheet.png", [band], min_side=16)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    row = 22 + 16 + 4
    assert sheet.shape == (4 + 4 * row, 4 + 6 * 20, 3)
    for line, (clips, i) in enumerate([(x, 0), (y, 0), (x, 1), (y, 1)]):
        middle = 4 + line * row + 22 + 8
        assert [sheet[middle, 12 + 20 * t, 0] for t in range(6)] == [grey_of(clips, i, t) for t in range(6)]
        beside = [tuple(sheet[middle, 2 + 20 * t]) == ORANGE for t in range(6)]
        assert beside == ([True, True, True, False, False, False] if line % 2 else [False] * 6)


def test_long_clips_continue_in_the_next_row(tmp_path):
    x = ramp(frames=20, size=(16, 16))
    save_contact_sheet(tmp_path / "sheet.png", [[Clips("", x), Clips("", x.flip(2), 18)]], min_side=16)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (4 + 4 * 20, 4 + 16 * 20, 3)
    assert [sheet[4 + 20 * line + 8, 12, 0] for line in range(4)] == [
        grey_of(x, 0, 0), grey_of(x, 0, 19), grey_of(x, 0, 16), grey_of(x, 0, 3),
    ]  # fmt: skip
    beside = [tuple(sheet[4 + 60 + 8, 2 + 20 * t]) == ORANGE for t in range(4)]
    assert beside == [True, True, True, False]


def test_grey_clips(tmp_path):
    save_video(tmp_path / "video.webp", [[Clips("", ramp(channels=1))]], 8, min_side=16)
    frames, _ = read_video(tmp_path / "video.webp")
    assert tuple(frames[5][10, 10]) == (grey_of(ramp(), 0, 5),) * 3


def test_a_video_that_is_too_large(tmp_path):
    bands = [[Clips("", ramp(frames=1))] for _ in range(170)]
    with pytest.raises(ValueError, match="a video of 104×17004 pixels is too large, the limit is 16383"):
        save_video(tmp_path / "video.webp", bands, 8)
    assert not list(tmp_path.iterdir())
