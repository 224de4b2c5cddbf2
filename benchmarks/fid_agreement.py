"""Our distances of two folders of images beside torch-fidelity's own of the same files.

    python benchmarks/fid_agreement.py [--images 350] [--folders A B] [--inception WEIGHTS] [--out results.json]

Without `--folders`, the embedded emoji at 64×64, two halves of the training images, are written out as PNG. The
features are EfficientNet-Lite0's, whose weights come with a package, registered with torch-fidelity; with `--inception`
also those of Inception from torch-fidelity's weights. Three Fréchet distances: ours (float64, two symmetric
eigendecompositions), torch-fidelity's (eigenvalues of a general matrix), and scipy's `sqrtm` of means and covariances
of float32 features, as pytorch-fid and ADM do it. Exit status 1 if ours and torch-fidelity's differ by more than 1e-3,
relatively.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_fidelity
from PIL import Image
from scipy import linalg

from ulzoo.data import DataContract, Emoji3D, in_order
from ulzoo.data.source import TensorSource
from ulzoo.evaluation.image_distances import Collected
from ulzoo.evaluation.image_features import OFFLINE, ImageFeatures, efficientnet_lite0, inception_v3
from ulzoo.evaluation.reference import reference_statistics
from ulzoo.files import sha256, write_text
from ulzoo.registry.export import versions

BATCH, TOLERANCE = 32, 1e-3


def write_folders(root: Path, images: int) -> list[Path]:
    emoji = Emoji3D("train", resolution=64)
    folders = [root / "a", root / "b"]
    for start, folder in enumerate(folders):
        folder.mkdir()
        for i in range(start, start + 2 * images, 2):
            Image.fromarray(emoji[i].pixels.permute(1, 2, 0).numpy()).save(folder / f"{i:05}.png")
    return folders


def read(folder: Path) -> TensorSource:
    files = sorted(folder.glob("*.png"))
    images = [torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy()).movedim(2, 0) for file in files]
    contract = DataContract(3, images[0].shape[-1], 0)
    return TensorSource(torch.stack(images), [-1] * len(files), [file.name for file in files], contract)


def ours(folders: list[Path], features: ImageFeatures, cache: Path) -> dict[str, float]:
    a, b = (read(folder) for folder in folders)
    reference = reference_statistics(b, features, data={}, split="val", keep_features=True, cache=cache)
    made = Collected(features, keep=True)
    for batch in in_order(a, BATCH):
        made.add(batch["x"])
    return made.figures("g", reference, seed=0)[0]


def theirs(folders: list[Path], extractor: str, size: int, **options: Any) -> dict[str, float]:
    return torch_fidelity.calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), feature_extractor=extractor, fid=True, kid=True, prc=True,
        kid_subset_size=size, rng_seed=0, batch_size=BATCH, cuda=False, cache=False, verbose=False, **options,
    )  # fmt: skip


def by_sqrtm(folders: list[Path], features: ImageFeatures) -> float:
    """As pytorch-fid, on torch-fidelity's mean and covariance of float32 features."""
    moments = []
    for folder in folders:
        found = torch.cat([features(part)[0] for part in read(folder).images.split(BATCH)]).numpy()
        moments.append((found.mean(0), np.cov(found, rowvar=False)))
    (mean, covariance), (other, covariance_of_it) = moments
    root = linalg.sqrtm(covariance @ covariance_of_it).real
    return float(((mean - other) ** 2).sum() + np.trace(covariance + covariance_of_it - 2 * root))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=350, help="of each half of the emoji")
    parser.add_argument("--folders", type=Path, nargs=2, help="two folders of PNG files of one size instead")
    parser.add_argument("--inception", type=Path, help="torch-fidelity's weights")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worst, rows = 0.0, {}
    with tempfile.TemporaryDirectory() as aside:
        folders = arguments.folders or write_folders(Path(aside), arguments.images)
        count = min(len(list(folder.glob("*.png"))) for folder in folders)
        networks = [(OFFLINE, efficientnet_lite0(), {})]
        if weights := arguments.inception:
            told = {"feature_extractor_weights_path": str(weights)}
            networks.append(("inception-v3-compat", inception_v3(weights, sha256(weights)), told))
        for extractor, features, options in networks:
            mine = list(ours(folders, features, Path(aside) / "cache").values())
            other = theirs(folders, extractor, min(1000, count), **options)
            names = "frechet_inception_distance", "kernel_inception_distance_mean", "precision", "recall"
            rows[extractor] = {name: [mine[i], other[name]] for i, name in enumerate(names)}
            rows[extractor]["frechet_by_sqrtm"] = [by_sqrtm(folders, features)]
            worst = max(worst, *(abs(x - y) / max(1, abs(y)) for x, y in (rows[extractor][name] for name in names)))
    results = {"images": count, "ours, torch-fidelity's": rows, "worst": worst, "versions": versions()}
    results["versions"]["torch-fidelity"] = torch_fidelity.__version__
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.out:
        write_text(arguments.out, text + "\n")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
