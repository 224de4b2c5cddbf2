"""Compression of files: measuring a model's codec, images and clips to streams, and streams to images and clips."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ulzoo.coding.codec import Codec
from ulzoo.coding.stream import MAX_BYTES, DamagedStream
from ulzoo.data.images.decode import read_rgb
from ulzoo.data.images.preprocess import to_pil
from ulzoo.data.subset import spread_batch
from ulzoo.data.videos.decode import read_clip
from ulzoo.files.atomic import check_destination, write_atomically, write_bytes
from ulzoo.media.pixels import from_uint8
from ulzoo.model import compression
from ulzoo.model.codec_network import codec_network
from ulzoo.model.contract import Contract
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import open_source
from ulzoo.registry.spec.schema import Spec
from ulzoo.visualization.video import write_webp
from ulzoo.visualization.video_samples import FRAME_RATE

SUFFIX = ".ulz"
MEASURED_IMAGES, MEASURED_CLIPS = 64, 8


@dataclass(frozen=True)
class CompressedFile:
    """A stream and where it is written.

    Attributes:
        source: the image or video.
        path: the file of the stream.
        stream: its content.
        pixels: of the image or clip.
    """

    source: Path
    path: Path
    stream: bytes
    pixels: int


def measure_codec(model: UnifiedLatents, spec: Spec) -> Codec:
    """The codec of a trained model, measured on images or clips of its training data.

    Raises:
        ValueError: the data is missing, or the model has no network to code with.
    """
    contract = model.contract
    codec_network(model)  # before the data is opened
    source = open_source(spec, "train")
    x = spread_batch(source, MEASURED_CLIPS if contract.video else MEASURED_IMAGES)["x"].to(model.device)
    return compression.measure_codec(model, [x[rows] for rows in contract.batches(len(x), None)])


def output_paths(files: Sequence[Path], out: Path, suffix: str) -> list[Path]:
    """The file in `out` for each of the files. Raises ValueError if two would be the same, or cannot be written."""
    paths = [out / f"{file.stem}{suffix}" for file in files]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(f"{files[i]}: {files[paths.index(path)]} is written to {path} too; use another --out")
        check_destination(path)
    return paths


def compress_files(
    model: UnifiedLatents, files: Sequence[Path], out: Path, *, seed: int, max_bits: int | None, rule: str
) -> Iterator[CompressedFile]:
    """Write a stream for each image or video, at its own size; of a video the middle clip, at the model's size.

    Raises:
        ValueError: a file cannot be read, or the model cannot compress.
    """
    paths = output_paths(files, out, SUFFIX)
    examples = ((file, path, _read(file, model.contract)) for file, path in zip(files, paths, strict=True))
    out.mkdir(parents=True, exist_ok=True)
    for _, group in groupby(examples, key=lambda example: example[2].shape):
        for batch in _batches(list(group), model.contract):
            x = torch.stack([example for _, _, example in batch]).to(model.device)
            streams = model.compress(x, seed=seed, max_bits=max_bits, rule=rule)
            for (file, path, example), stream in zip(batch, streams, strict=True):
                write_bytes(path, stream)
                yield CompressedFile(file, path, stream, example[0].numel())


def read_streams(files: Sequence[Path], model: UnifiedLatents) -> list[tuple[bytes, tuple[int, ...]]]:
    """The content of each file and the size of its image or clip.

    Raises:
        ValueError: with the name of the file, if the model cannot decode one.
    """
    streams = []
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: {'not a file' if file.exists() else 'no such file'}")
        with file.open("rb") as opened:
            streams.append(opened.read(MAX_BYTES + 1))
    with _named(files):
        return list(zip(streams, model.stream_sizes(streams), strict=True))


def decompress_files(
    model: UnifiedLatents, files: Sequence[Path], out: Path, *, max_bits: int | None, steps: int | None
) -> Iterator[Path]:
    """Write the image of each stream as PNG, clips as an animated WebP.

    Raises:
        ValueError: a file is damaged, truncated or of another model, or cannot be written.
    """
    paths = output_paths(files, out, ".webp" if model.contract.video else ".png")
    streams = read_streams(files, model)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(file, path, *stream) for file, path, stream in zip(files, paths, streams, strict=True)]
    for _, group in groupby(jobs, key=lambda job: job[3]):
        for batch in _batches(list(group), model.contract):
            with _named([file for file, *_ in batch]):
                x = model.decompress([stream for _, _, stream, _ in batch], max_bits=max_bits, steps=steps)
            for (_, path, *_), example in zip(batch, x, strict=True):
                _write(path, example, model.contract)
                yield path


def _read(file: Path, contract: Contract) -> Tensor:
    """An image or clip as x, (C, *size) in [-1, 1]."""
    if not file.is_file():
        raise ValueError(f"{file}: {'is a folder, give files' if file.is_dir() else 'no such file'}")
    if contract.video:
        frames, resolution, _ = contract.size
        return from_uint8(
            read_clip(file, str(file), frames=frames, resolution=resolution, frame_rate=contract.frame_rate)
        )
    image = read_rgb(file)
    pixels = np.array(image if contract.channels == 3 else image.convert("L"))
    return from_uint8(torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1))


def _write(path: Path, x: Tensor, contract: Contract) -> None:
    """Write an image as PNG, or a clip as a lossless WebP."""
    if contract.video:
        frames, frame_rate = to_pil(x.transpose(0, 1)), contract.frame_rate or FRAME_RATE
        write_atomically(path, lambda temporary: write_webp(temporary, frames, frame_rate))
    else:
        (image,) = to_pil(x)
        write_atomically(path, lambda temporary: image.save(temporary, "PNG"))


def _batches(items: list, contract: Contract) -> list[list]:
    return [items[rows] for rows in contract.batches(len(items), None)]


@contextmanager
def _named(files: Sequence[Path]) -> Iterator[None]:
    """Put the name of the stream's file before the message of a DamagedStream."""
    try:
        yield
    except DamagedStream as error:
        raise ValueError(f"{files[error.number]}: {error.reason}") from None
