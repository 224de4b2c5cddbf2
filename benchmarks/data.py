"""Images a second of `kind: webdataset` beside bare webdataset, and of base training on latents beside images.

    python -m benchmarks data [--images 400] [--rounds 30] [--steps 40] [--out benchmarks/results/data.json]

The shards contain emoji, enlarged to 256×256 with noise added, as JPEGs of quality 95 and as PNGs, packed by `ulzoo
prepare`. The bare loader is `webdataset.WebDataset(shards).decode("rgb8")`, which reads the same files sequentially and
stacks them to batches; each of 2 workers has its own shard. ulzoo's loader reads them in the order given by the seed
and mirrors half of them. Both are measured up to the uint8 batches of the workers, and up to the float32 batches in
[-1, 1] used in training, to which the bare loader's batches are converted by the same function. The loaders take turns,
and images are counted per second of processor time, including workers, since the machine may be shared. Then a spec's
base is trained on images and on their latents from `ulzoo encode`; the speeds are compared with the ratio of FLOPs.
Exit status 1 if ulzoo's loader reaches less than 0.9 of the bare one.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from ulzoo.data import WebDataset, batches
from ulzoo.data.images.emoji3d import read_shard
from ulzoo.data.prepare.images import ImageEncoding, prepare_image_folder
from ulzoo.data.prepare.pack import PackConfig
from ulzoo.media.pixels import from_uint8
from ulzoo.registry import load_spec, open_model
from ulzoo.registry.compile import open_source
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.runs import train as run
from ulzoo.registry.runs.encode import encode
from ulzoo.registry.runs.export import versions
from ulzoo.registry.runs.train import RunOptions, train

SIDE, BATCH, SEED = 256, 20, 0
loader = import_module("ulzoo.data.loader")
SPECS = ("emoji32_tiny",)


def write_images(root: Path, count: int) -> None:
    rng = np.random.default_rng(SEED)
    for i, sample in enumerate(islice(read_shard("emoji3d-64-train.tar.gz"), count)):
        pixels = np.asarray(sample["webp"].resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)
        noisy = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
        path = root / "train" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, compress_level=1)
    (root / "val").mkdir()


def stack(samples: list[Any]) -> tuple[torch.Tensor, list[int]]:
    return torch.stack([torch.as_tensor(image) for image, _ in samples]), [label for _, label in samples]


def bare(shards: list[str], workers: int) -> Iterator[Any]:
    """Endless batches of uint8 (B, H, W, 3)."""
    data = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("jpg;png", "cls").repeat()
    return iter(DataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=stack))


def finished(stream: Iterator[Any]) -> Iterator[torch.Tensor]:
    """The batches converted for training."""
    for pixels, _ in stream:
        x = torch.from_numpy(np.empty((len(pixels), 3, SIDE, SIDE), np.float32))
        yield from_uint8(pixels.permute(0, 3, 1, 2), out=x)


def unfinished(stream: Iterator[Any]) -> Iterator[Any]:
    """Batches of ulzoo's loader as its workers return them."""
    while True:
        with mock.patch.object(loader, "_to_batch", lambda stacked, *_: stacked):
            batch = next(stream)
        yield batch


def processor_seconds(processes: list[int]) -> float:
    """Processor time of other processes."""
    fields = [Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split() for number in processes]
    return sum(int(user) + int(system) for user, system in (row[11:13] for row in fields)) / os.sysconf("SC_CLK_TCK")


class Measured:
    """A stream of batches, with the processor time that it and its workers take."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        before = {process.pid for process in multiprocessing.active_children()}
        self.stream, self.here, self.images = make(), 0.0, 0
        next(self.stream)
        self.workers = [process.pid for process in multiprocessing.active_children() if process.pid not in before]
        self.before = processor_seconds(self.workers)

    def read(self, batches: int) -> None:
        started = time.process_time()
        for _ in range(batches):
            next(self.stream)
        self.here += time.process_time() - started
        self.images += batches * BATCH

    def rate(self) -> float:
        return self.images / (self.here + processor_seconds(self.workers) - self.before)


def loaders(root: Path, rounds: int, workers: int) -> dict[str, Any]:
    """Images per second of both loaders, measured in turns."""
    source = WebDataset("train", root=str(root), resolution=SIDE, num_classes=2)
    shards = [str(path) for path in source.index.shards]
    streams = {
        "ulzoo uint8": Measured(lambda: unfinished(batches(source, BATCH, seed=SEED, workers=workers))),
        "bare uint8": Measured(lambda: bare(shards, workers)),
        "ulzoo float32": Measured(lambda: batches(source, BATCH, seed=SEED, workers=workers)),
        "bare float32": Measured(lambda: finished(bare(shards, workers))),
    }
    for _ in range(rounds):
        for stream in streams.values():
            stream.read(4)
    rates = {name: round(stream.rate(), 1) for name, stream in streams.items()}
    ratios = {kind: round(rates[f"ulzoo {kind}"] / rates[f"bare {kind}"], 2) for kind in ("uint8", "float32")}
    return {"workers": workers, "images_per_processor_second": rates, "of_bare": ratios}


class Clock(run.TrainingCallback):
    """Records the processor time at the end of every step."""

    def stage(self, stage: str, config: Any, start: int) -> None:
        self.times: list[float] = []

    def step(self, step: int, row: Any) -> None:
        self.times.append(time.process_time())


def base_training(name: str, steps: int, folder: Path) -> dict[str, Any]:
    """Images per second when training the base, from its sixth step on."""
    keys = ["train.latents.steps=1", f"train.base.steps={steps}"]
    train(load_spec(name, keys), folder / "stage_1", RunOptions(stage="latents"))
    loaded = open_model(folder / "stage_1")
    encode(loaded.model, loaded.spec, open_source(loaded.spec, "train"), folder / "kept", "train")
    latents = ["train.base.data.kind=latents", f"train.base.data.path={folder / 'kept'}"]
    rates, flops = {}, {}
    for what, more in (("images", []), ("latents", latents)):
        spec, clock = load_spec(name, [*keys, *more]), Clock()
        train(spec, Path(shutil.copytree(folder / "stage_1", folder / what)), RunOptions(stage="base"), callback=clock)
        taken = clock.times[-1] - clock.times[4]
        rates[what] = round((steps - 5) * spec.train.base.batch_size / taken, 1)
        flops[what] = summarize(spec).training_flops("base")
    return {
        "spec": name,
        "images_per_processor_second": rates,
        "latents_over_images": round(rates["latents"] / rates["images"], 2),
        "by_flops": round(flops["images"] / flops["latents"], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/data.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run.EVALUATED_IMAGES = 4
    rows, trained = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder / "pictures", arguments.images)
        for kind in ("jpeg", "png"):
            half = arguments.images // 2
            config = PackConfig(folder / kind, "train", ImageEncoding(SIDE, kind), per_shard=half)
            prepare_image_folder(folder / "pictures", config, classes=True, val_fraction=0.1)
            for workers in (0, 2):
                rows.append({"format": kind, **loaders(folder / kind, arguments.rounds, workers)})
                print(json.dumps(rows[-1]), flush=True)
        for name in SPECS:
            trained.append(base_training(name, arguments.steps, folder / name))
            print(json.dumps(trained[-1]), flush=True)
    machine = {**versions(), "webdataset": webdataset.__version__, "device": "cpu", "threads": 1}
    content = {"machine": machine, "side": SIDE, "rounds": arguments.rounds, "loader": rows, "base_training": trained}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    return int(min(min(row["of_bare"].values()) for row in rows) < 0.9)


if __name__ == "__main__":
    sys.exit(main())
