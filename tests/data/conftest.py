import io
import tarfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from torch import Tensor

Picture = Callable[[int], np.ndarray]


def grey(i: int, width: int = 48, height: int = 32) -> np.ndarray:
    """Frame `i` of a video of grey levels, from which `frame_numbers` recovers the frame numbers."""
    return np.full((height, width, 3), 16 + 8 * i, np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache shard indices in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, list[tuple[str, bytes]]], None]:
    """A function that writes a tar file with members (name, content)."""

    def write(path: Path, members: list[tuple[str, bytes]]) -> None:
        with tarfile.open(path, "w") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    return write


@pytest.fixture(scope="session")
def make_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """A function that encodes a video as bytes: `make_video(n, rate=8, picture=..., times=[ms, ...], ...)`."""

    file: Path = tmp_path_factory.mktemp("video") / "video"  # not in memory, since faststart reads it again

    def make(
        n: int = 24,
        *,
        picture: Picture = grey,
        rate: int = 8,
        times: Sequence[int] | None = None,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        container: str = "mp4",
        source_format: str = "rgb24",
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
        **stream_options: Any,
    ) -> bytes:
        height, width = picture(0).shape[:2]
        with av.open(file, "w", format=container, options=container_options or {}) as output:
            stream = output.add_stream(codec, rate=rate, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.thread_count = 1
            if rotation := stream_options.pop("rotation", None):
                stream.set_display_rotation(*rotation)
            for name, value in stream_options.items():
                setattr(stream, name, value)
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for i in range(n):
                frame = av.VideoFrame.from_ndarray(picture(i), format=source_format)
                if times is not None:
                    frame.pts, frame.time_base = times[i], Fraction(1, 1000)
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return file.read_bytes()

    return make


@pytest.fixture(scope="session")
def frame_numbers() -> Callable[[Tensor], list[int]]:
    """A function that returns the numbers of the frames in a clip (3, T, H, W) of a `grey` video."""
    return lambda clip: [round((float(value) - 16) / 8) for value in clip.float().mean((0, 2, 3))]
