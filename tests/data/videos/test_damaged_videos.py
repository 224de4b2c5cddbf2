"""A thousand damaged files: each is read or skipped by name; nothing crashes or hangs."""

import io
import json
import os
import random
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FORMATS = {
    "mp4": {"codec": "libx264"},
    "fragmented.mp4": {"container": "mp4", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "mov": {"codec": "mpeg4"},
    "mkv": {"container": "matroska", "codec": "ffv1", "pix_fmt": "bgr0"},
    "webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "ts": {"container": "mpegts", "codec": "mpeg2video"},
    "gif": {"codec": "gif", "pix_fmt": "rgb8"},
}

READ = """
import json, sys, time
from ulzoo.data import VideoFolder, batches, in_order

source = VideoFolder("train", root=sys.argv[1], resolution=16, frames=8)
keys, skipped, slowest, began = [], {}, 0.0, time.process_time()
for batch in in_order(source, 1):
    keys += batch["key"]
    skipped.update(batch["skipped"])
    slowest, began = max(slowest, time.process_time() - began), time.process_time()
stream = batches(source, 50, seed=0)
drawn = [next(stream) for _ in range(4)]
print(json.dumps({
    "keys": keys,
    "skipped": [[source.files[index][0], line] for index, line in skipped.items()],
    "drawn": [key for batch in drawn for key in batch["key"]],
    "slowest": slowest,
}))
"""


def mutations(content: bytes, other: bytes, rng: random.Random) -> list[bytes]:
    """Copies with changed bytes, anywhere or in headers and indices; truncated, spliced, or with parts moved."""
    length = len(content)
    flipped = [bytearray(content) for _ in range(4)]
    for n, part in zip((1, 10, 1000, 20), flipped, strict=True):
        for _ in range(n):
            part[rng.randrange(length)] = rng.randrange(256)
    for _ in range(10):  # where headers and indices are
        flipped[3][rng.choice((rng.randrange(min(400, length)), length - 1 - rng.randrange(min(900, length))))] ^= 255
    a, b = sorted((rng.randrange(length), rng.randrange(length)))
    cut = [content[:a], content[b:], content[:a] + content[b:]]
    spliced = [content[:a] + other[a:], content[:a] + rng.randbytes(200) + content[a:], content[b:] + content[:b]]
    return [bytes(part) for part in flipped] + cut + spliced


@pytest.mark.slow
def test_a_thousand_damaged_files(make_video: Callable[..., bytes], tmp_path: Path) -> None:
    rng = random.Random(0)
    noise = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), np.uint8)
    videos = {
        suffix: make_video(12, picture=noise.__getitem__, **{"container": suffix, **keys})
        for suffix, keys in FORMATS.items()
    }
    root = tmp_path / "train"
    root.mkdir()
    (tmp_path / "val").mkdir()
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(800))
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    others = {"sound": sound.getvalue(), "picture": picture.getvalue(), "text": b"hello " * 100, "empty": b""}

    for suffix, content in videos.items():
        (root / f"intact.{suffix}").write_bytes(content)
        for i in range(12):
            for j, mutant in enumerate(mutations(content, rng.choice(list(videos.values())), rng)):
                (root / f"{i}-{j}.{suffix}").write_bytes(mutant)
        for other in videos:  # renamed
            if other != suffix:
                (root / f"is-{suffix}.as.{other.rpartition('.')[2]}").write_bytes(content)
        for name, wrong in others.items():
            (root / f"{name}.{suffix}").write_bytes(wrong)
    files = {path.name for path in root.iterdir()}
    assert len(files) == 1050

    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    report = json.loads(process.stdout)

    read = {key.removeprefix("train/") for key in report["keys"]}
    skipped = {Path(path).name: line for path, line in report["skipped"]}
    assert read | set(skipped) == files and not read & set(skipped)
    assert {name for name in files if name.startswith(("intact.", "is-"))} <= read
    assert {name for name in files if name.startswith(tuple(others))} <= set(skipped)
    assert len(read) > 100 and len(skipped) > 500
    for path, line in report["skipped"]:
        assert line.startswith(f"{path}: ") and len(line) > len(path) + 5 and line.isprintable()
    assert len(report["drawn"]) == 200 and {key.removeprefix("train/") for key in report["drawn"]} <= files
    assert report["slowest"] < 20
