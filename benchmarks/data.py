"""Images a second of `kind: webdataset` beside bare webdataset, and of base training on latents beside images.

    python benchmarks/data.py [--images 400] [--rounds 5] [--steps 40] [--out benchmarks/results/data.json]

Shards: emoji enlarged to 256×256 under noise, as JPEGs of quality 95 and as PNGs, packed by `ulzoo prepare`. The bare
loader reads the same files in sequence, `webdataset.WebDataset(...)`, and stacks them to batches: of the float32 that
training needs, by `.decode("torchrgb")`, and of uint8, by `.decode("rgb8")`; with 2 workers each has a shard of its
own. Ours reads them in the seed's order and makes float32 of them. They take turns, each is the best of its rounds,
since others may use the machine. Then a spec's base is trained on images and on latents that `ulzoo encode` made of
them: the best row of metrics.jsonl counts, and beside it stands what the FLOPs promise. Exit status 1 if our loader has
less than 0.9 of the bare one in float32.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from ulzoo.data import WebDataset, batches
from ulzoo.data.emoji3d import read_shard
from ulzoo.data.pack_images import ImageEncoding, prepare_image_folder
from ulzoo.registry import load_spec, open_model, run
from ulzoo.registry.encode import encode
from ulzoo.registry.export import versions
from ulzoo.registry.run import open_source, train
from ulzoo.registry.summary import summarize

SIDE, BATCH, SEED = 256, 20, 0
SPECS = ("emoji32_tiny",)


def write_images(root: Path, count: int) -> None:
    rng = np.random.default_rng(SEED)
    for i, sample in enumerate(islice(read_shard("emoji3d-64-train.tar"), count)):
        pixels = np.asarray(sample["webp"].resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)
        noisy = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
        path = root / "train" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, compress_level=1)
    (root / "val").mkdir()


def stack(samples: list[Any]) -> tuple[torch.Tensor, list[int]]:
    return torch.stack([torch.as_tensor(image) for image, _ in samples]), [label for _, label in samples]


def bare(shards: list[str], decoder: str, workers: int) -> Iterator[Any]:
    """Batches without end."""
    data = webdataset.WebDataset(shards, shardshuffle=False).decode(decoder).to_tuple("jpg;png", "cls").repeat()
    return iter(DataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=stack))


def loaders(root: Path, images: int, rounds: int, workers: int) -> dict[str, Any]:
    """Images/s of both, in turn, after a round that is not counted."""
    source = WebDataset("train", root=str(root), resolution=SIDE, num_classes=2)
    shards = [str(path) for path in source.index.shards]
    streams = {
        "ulzoo": batches(source, BATCH, seed=SEED, workers=workers),
        "float32": bare(shards, "torchrgb", workers),
        "uint8": bare(shards, "rgb8", workers),
    }
    times: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(rounds + 1):
        for name, stream in streams.items():
            started = time.perf_counter()
            for _ in range(images // BATCH):
                next(stream)
            times[name].append(time.perf_counter() - started)
    rates = {name: round(images / min(values[1:]), 1) for name, values in times.items()}
    of = {f"of_{name}": round(rates["ulzoo"] / rates[name], 2) for name in ("float32", "uint8")}
    return {"workers": workers, "images_per_second": rates, **of}


def base_training(name: str, steps: int, folder: Path) -> dict[str, Any]:
    """Images/s of the base's training."""
    keys = ["train.latents.steps=1", f"train.base.steps={steps}", "train.base.log_every=5"]
    train(load_spec(name, keys), folder / "stage_1", stage="latents")
    loaded = open_model(folder / "stage_1")
    encode(loaded.model, loaded.spec, open_source(loaded.spec, "train"), folder / "kept", "train")
    latents = ["train.base.data.kind=latents", f"train.base.data.path={folder / 'kept'}"]
    rates, flops = {}, {}
    for what, more in (("images", []), ("latents", latents)):
        spec = load_spec(name, [*keys, *more])
        place = Path(shutil.copytree(folder / "stage_1", folder / what))
        train(spec, place, stage="base")
        rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        rates[what] = round(max(row["images_per_second"] for row in rows if row["stage"] == "base"), 1)
        flops[what] = summarize(spec, memory=False).training_flops("base")
    return {
        "spec": name,
        "images_per_second": rates,
        "latents_over_images": round(rates["latents"] / rates["images"], 2),
        "by_flops": round(flops["images"] / flops["latents"], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
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
            options: dict[str, Any] = {"classes": True, "val_fraction": 0.1, "images_per_shard": half, "workers": 1}
            prepare_image_folder(folder / "pictures", folder / kind, "train", ImageEncoding(SIDE, kind), **options)
            for workers in (0, 2):
                rows.append({"format": kind, **loaders(folder / kind, arguments.images, arguments.rounds, workers)})
                print(json.dumps(rows[-1]), flush=True)
        for name in SPECS:
            trained.append(base_training(name, arguments.steps, folder / name))
            print(json.dumps(trained[-1]), flush=True)
    machine = {**versions(), "webdataset": webdataset.__version__, "device": "cpu", "threads": 1}
    content = {"machine": machine, "side": SIDE, "rounds": arguments.rounds, "loader": rows, "base_training": trained}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    return int(min(row["of_float32"] for row in rows) < 0.9)


if __name__ == "__main__":
    sys.exit(main())
