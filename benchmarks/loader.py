"""Clips per second of the loader and of plain PyAV on the same files.

    python -m benchmarks loader [--clips 300] [--rounds 5] [--leak 10000] [--out benchmarks/results/loader.json]

Three cases: the embedded emoji as they are (64×64, yuv444p, 8 frames/s); longer videos of them (256×144, yuv420p, 8
seconds at 24 frames/s, a keyframe every 48) at their own height, as written by `ulzoo prepare`; and the same videos
resized to 128. Plain PyAV opens the same files in the same order, seeks to the keyframe before the same 16 frames,
decodes up to their end, converts them to RGB of the same height and crops them: with its defaults (`plain`), and on one
thread (`tuned`), which is faster for small frames. Its clips go through PyTorch's DataLoader, with 0 or 2 workers, and
are converted to float32 in [-1, 1] by the loader's function. All take turns, and the best round of each counts, since
the machine may be shared. Then RSS is measured over `--leak` clips, of which every tenth cannot be read. Exit status 1
if the loader reaches less than 0.9 of `plain` or memory grows by more than 20 MB.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from ulzoo.data import VideoFolder, batches
from ulzoo.data.images.emoji3d import read_shard
from ulzoo.data.source import Placement
from ulzoo.data.videos.decode import UnreadableVideo, first_frame, read_clip, read_video
from ulzoo.media.pixels import from_uint8
from ulzoo.registry.runs.export import versions
from ulzoo.runtime.seeds import derive_seed

FRAMES, BATCH, SEED, GROWTH_MB = 16, 10, 0, 20
Pick = tuple[str, float]


def write_embedded(folder: Path) -> None:
    for sample in read_shard("emoji3d-video-64-train.tar.gz"):
        (folder / f"{sample['__key__']}.mp4").write_bytes(sample["mp4"])


def write_videos(folder: Path, count: int = 24) -> None:
    """Emoji that move over a grey background."""
    for sample in islice(read_shard("emoji3d-video-64-train.tar.gz"), count):
        video = read_video(sample["mp4"], 64)
        large = interpolate(video.movedim(1, 0).float(), 144).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        with av.open(folder / f"{sample['__key__']}.mp4", "w") as output:
            stream = output.add_stream("libx264", rate=24, options={"g": "48"})
            stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
            for i in range(192):
                picture = np.full((144, 256, 3), 200, np.uint8)
                left = round(56 * (1 + np.sin(i / 20)))
                picture[:, left : left + 144] = large[i // 3 % len(large)]
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode())


def picks(source: VideoFolder, count: int) -> list[Pick]:
    """The files and positions of the loader's first `count` clips."""
    clips: list[Pick] = []
    for epoch in range(count // len(source) + 1):
        generator = torch.Generator().manual_seed(derive_seed(SEED, "order", epoch))
        for index in torch.randperm(len(source), generator=generator).tolist():
            clips.append((source.files[index][0], (derive_seed(SEED, "clip", len(clips)) >> 10) / 2**53))
    return clips[:count]


class PlainClips(Dataset[Tensor]):
    """Batches of these clips through PyAV alone, (BATCH, C, T, H, W) uint8; 0 threads is PyAV's default."""

    def __init__(self, wanted: list[Pick], height: int, threads: int) -> None:
        self.wanted, self.height, self.threads = wanted, height, threads

    def __len__(self) -> int:
        return len(self.wanted) // BATCH

    def __getitem__(self, index: int) -> Tensor:
        clips = [self.read(*pick) for pick in self.wanted[index * BATCH : (index + 1) * BATCH]]
        return torch.from_numpy(np.stack(clips)).movedim(-1, 1)

    def read(self, path: str, position: float) -> np.ndarray[Any, Any]:
        """The frames of a clip, (T, H, W, C)."""
        with av.open(path) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate
            first = first_frame(stream.frames, FRAMES, position)
            container.seek(int(first / rate / stream.time_base), stream=stream)
            pixels: list[np.ndarray[Any, Any]] = []
            for frame in container.decode(stream):
                if frame.time > (first - 0.5) / rate:
                    size = round(frame.width * self.height / frame.height), self.height
                    pixels.append(frame.reformat(*size, "rgb24", threads=self.threads).to_ndarray())
                    if len(pixels) == FRAMES:
                        break
        left = (pixels[0].shape[1] - self.height) // 2
        return np.stack([frame[:, left : left + self.height] for frame in pixels])


def without_end(clips: PlainClips, workers: int) -> Iterator[Tensor]:
    """The batches as float32, again and again, with the same workers and without a gap between epochs."""
    repeated = itertools.cycle(range(len(clips)))
    for batch in DataLoader(clips, batch_size=None, sampler=repeated, num_workers=workers):
        yield from_uint8(batch, out=torch.from_numpy(np.empty(batch.shape, np.float32)))


def compare(root: Path, resolution: int, clips: int, rounds: int, workers: int) -> dict[str, Any]:
    """Clips/s of all, measured in turns, after a warm-up round."""
    source = VideoFolder("train", root=str(root), resolution=resolution, frames=FRAMES, hflip=False)
    wanted = picks(source, clips)
    stream = batches(source, BATCH, seed=SEED, workers=workers)
    first = next(stream)
    assert first["key"] == [source.folders.key(path) for path, _ in wanted[:BATCH]]
    plain = {
        name: without_end(PlainClips(wanted, resolution, threads), workers)
        for name, threads in (("plain", 0), ("tuned", 1))
    }
    times: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for name, iterator in {"loader": stream, **plain}.items():
            started = time.perf_counter()
            deque(islice(iterator, clips // BATCH), maxlen=0)  # keeps none
            times.setdefault(name, []).append(time.perf_counter() - started)
    rates = {name: round(clips / min(values[1:]), 1) for name, values in times.items()}
    return {
        "workers": workers,
        "clips_per_second": rates,
        "of_plain": round(rates["loader"] / rates["plain"], 2),
        "of_tuned": round(rates["loader"] / rates["tuned"], 2),
    }


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def leak(clips: int) -> dict[str, Any]:
    """Growth of the resident memory from a fifth of `clips` on."""
    files = [sample["mp4"] for sample in islice(read_shard("emoji3d-video-64-train.tar.gz"), 100)]
    files[::10] = [file[:-500] for file in files[::10]]
    unreadable, early = 0, 0.0
    for n in range(clips):
        if n == clips // 5:
            early = resident_mb()
        try:
            read_clip(files[n % 100], str(n), frames=FRAMES, resolution=64, placement=Placement(n / clips))
        except UnreadableVideo:
            unreadable += 1
    assert unreadable == clips // 10, unreadable
    return {"clips": clips, "unreadable": unreadable, "growth_mb": round(resident_mb() - early, 1)}


CASES = (
    ("emoji, 64×64", write_embedded, 64),
    ("videos, 256×144", write_videos, 144),
    ("videos, 256×144", write_videos, 128),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--leak", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/loader.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, write, resolution in CASES:
        with tempfile.TemporaryDirectory() as folder:
            for split in ("train", "val"):
                (Path(folder) / split).mkdir()
            write(Path(folder) / "train")
            for workers in (0, 2):
                row = compare(Path(folder), resolution, arguments.clips, arguments.rounds, workers)
                rows.append({"videos": name, "resolution": resolution, **row})
                print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    memory = leak(arguments.leak)
    print(json.dumps(memory))
    machine = {**versions(), "av": av.__version__, "device": "cpu"}
    content = {"frames": FRAMES, "rounds": arguments.rounds, "machine": machine, "rows": rows, "memory": memory}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return int(min(row["of_plain"] for row in rows) < 0.9 or memory["growth_mb"] > GROWTH_MB)


if __name__ == "__main__":
    sys.exit(main())
