"""What storing clips costs: size, PSNR and a Fréchet distance of re-encoded clips, for each encoding of `prepare`.

    python -m benchmarks recompression [--clips N] [--out FOLDER]

The embedded videos of emoji, 64 pixels wide and in 4:2:0, are shrunk to 32 pixels, where their chroma is as fine as
their luma, and stored by `ulzoo.data.prepare.transcode`. As videos of Kinetics that are shrunk to 128 pixels, they have
colours that 4:2:0 cannot store at the smaller size. The distance is `fd_transnetv2`, on a network whose weights come
with a package: **not FVD**, and the videos are not Kinetics'. The distance between two halves of the original clips,
which have no video in common, is the scale to compare with.
"""

import io
import tarfile
import tempfile
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import parser, prepare, publish
from ulzoo.data.prepare.transcode import CODECS, VideoEncoding, transcode
from ulzoo.evaluation.features.videos import TransNetV2Features
from ulzoo.evaluation.frechet import FeatureStatistics, frechet_distance

RESOLUTION, FRAMES, BATCH = 32, 16, 16


def embedded_videos(count: int) -> list[bytes]:
    """The first videos of the embedded training split."""
    with tarfile.open(str(files("ulzoo.data") / "embedded" / "emoji3d-video-64-train.tar.gz")) as tar:
        members = (member for member in tar if member.name.endswith(".mp4"))
        contents = [tar.extractfile(member) for member in islice(members, count)]
        return [content.read() for content in contents if content is not None]


def stored(path: Path, pictures: Any) -> tuple[Tensor, int]:
    """The first 16 frames of a video as it is stored, uint8 (3, T, H, W), and its bytes per frame."""
    content = transcode(str(path), 0, 60, VideoEncoding(RESOLUTION, pictures=pictures), trimmed=True)
    with av.open(io.BytesIO(content)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = torch.from_numpy(np.stack(frames[:FRAMES])).permute(3, 0, 1, 2)
    return clip, len(content) // len(frames)


def statistics(features: TransNetV2Features, clips: list[Tensor]) -> FeatureStatistics:
    collected = FeatureStatistics(features.dimension)
    for start in range(0, len(clips), BATCH):
        collected.add(features(torch.stack(clips[start : start + BATCH])))
    return collected


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--clips", type=int, default=256, help="number of videos")
    options = arguments.parse_args()
    device = prepare(options)
    clips: dict[str, list[Tensor]] = {name: [] for name in CODECS}
    sizes: dict[str, list[int]] = {name: [] for name in CODECS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for content in embedded_videos(options.clips):
            path.write_bytes(content)
            for name in CODECS:
                clip, size = stored(path, name)
                clips[name].append(clip)
                sizes[name].append(size)
    features = TransNetV2Features(device)
    original = statistics(features, clips["lossless"])
    halves = [statistics(features, clips["lossless"][start::2]) for start in (0, 1)]
    rows: dict[str, Any] = {}
    for name, codec in CODECS.items():
        mse = float((torch.stack(clips[name]).double() - torch.stack(clips["lossless"])).square().mean())
        rows[name] = {
            "crf": codec.crf,
            "bytes_per_frame": sum(sizes[name]) / len(sizes[name]),
            "psnr_db": 10 * np.log10(255**2 / mse) if mse else None,
            "fd_transnetv2_of_stored_clips": frechet_distance(statistics(features, clips[name]), original),
        }
        print(name, rows[name])
    content = {"clips": len(clips["lossless"]), "encodings": rows, "fd_transnetv2_of_halves": frechet_distance(*halves)}
    print(publish("recompression", content, device, options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
