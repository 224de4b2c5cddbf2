"""Reading ten thousand clips, readable and not, leaks neither memory nor file handles."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ulzoo.data.source import Placement
from ulzoo.data.videos.decode import UnreadableVideo, read_clip

CLIPS = 10_000


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_no_memory_and_no_handles_leak(make_video: Callable[..., bytes], tmp_path: Path) -> None:
    video = make_video(6)
    files = [tmp_path / name for name in ("intact.mp4", "truncated.mp4", "short.mp4", "text.mp4", "resampled.mkv")]
    for path, content in zip(
        files, (video, video[:-400], make_video(3), b"hello", make_video(6, container="matroska")), strict=True
    ):
        path.write_bytes(content)
    unreadable, early, handles = 0, 0.0, 0
    for n in range(CLIPS):
        if n == CLIPS // 5:
            early, handles = resident_mb(), len(os.listdir("/proc/self/fd"))
        path = files[n % 5]
        rate = 8 if path.suffix == ".mkv" else None
        try:
            read_clip(path, path.name, frames=4, resolution=32, frame_rate=rate, placement=Placement(n / CLIPS))
        except UnreadableVideo:
            unreadable += 1
    assert unreadable == CLIPS // 5 * 3
    assert len(os.listdir("/proc/self/fd")) == handles
    assert resident_mb() - early < 10
