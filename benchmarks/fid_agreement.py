"""Our distances of two folders of images beside those that torch-fidelity's own command prints of the same files.

    python benchmarks/fid_agreement.py [--images 350] [--folders A B] [--inception WEIGHTS] [--out results.json]

Without `--folders`, the embedded emoji at 64×64, two halves of the training images, are written out as PNG. The
features are EfficientNet-Lite0's, whose weights come with a package, registered with torch-fidelity; and Inception's,
by torch-fidelity's weights or, without `--inception`, by random ones, under which resizing, layers and distance are the
same. torch-fidelity runs as `fidelity --input1 A --input2 B --fid --kid --prc` in a process of its own. Beside its
Fréchet distance (eigenvalues of a general matrix) and ours (float64, two symmetric eigendecompositions) stands scipy's
`sqrtm` of float32 features, as pytorch-fid and ADM do it. Exit status 1 if ours and the command's differ by more than
1e-3, relatively.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch_fidelity
from PIL import Image
from scipy import linalg
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from ulzoo.data import DataContract, Emoji3D, in_order
from ulzoo.data.source import TensorSource
from ulzoo.evaluation import EvaluationConfig
from ulzoo.evaluation.feature_metrics import FeatureCollector
from ulzoo.evaluation.features.images import OFFLINE, ImageFeatures, efficientnet_lite0, inception_v3
from ulzoo.evaluation.reference import reference_statistics
from ulzoo.files.atomic import sha256, write_text
from ulzoo.registry.runs.export import versions

BATCH, TOLERANCE = 32, 1e-3
INCEPTION = "inception-v3-compat"
COMMAND = """
from ulzoo.evaluation.features.images import register
register()
from torch_fidelity.fidelity import main
main()
"""


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
    keys = [file.name for file in files]
    return TensorSource(torch.stack(images), labels=[-1] * len(files), keys=keys, contract=contract)


def ours(folders: list[Path], features: ImageFeatures, cache: Path) -> dict[str, float]:
    a, b = (read(folder) for folder in folders)
    reference = reference_statistics(b, features, EvaluationConfig(data={}), keep_features=True, cache=cache)
    made = FeatureCollector(features, keep=True)
    for batch in in_order(a, BATCH):
        made.add(batch["x"])
    return made.metrics("g", reference, seed=0)[0]


def theirs(folders: list[Path], extractor: str, size: int, weights: Path | None) -> dict[str, float]:
    """What the command prints, to which our extractor is known."""
    command = ["--input1", str(folders[0]), "--input2", str(folders[1]), "--cpu", "--fid", "--kid", "--prc", "--json"]
    command += ["--feature-extractor", extractor, "--kid-subset-size", str(size), "--rng-seed", "0", "--no-cache"]
    command += ["--batch-size", str(BATCH), "--silent"]
    command += ["--feature-extractor-weights-path", str(weights)] if weights else []
    done = subprocess.run([sys.executable, "-c", COMMAND, *command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def random_inception(path: Path) -> Path:
    """A file of random weights of that network, which is otherwise made with published ones alone."""
    with (
        mock.patch.object(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *args, **kwargs: {}),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *args, **kwargs: None),
    ):
        network = FeatureExtractorInceptionV3(INCEPTION, ["2048"])
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 4:  # large enough for activations to reach the last layer
            nn.init.kaiming_normal_(parameter, generator=generator)
    torch.save(network.state_dict(), path)
    return path


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
        weights = arguments.inception or random_inception(Path(aside) / "random.pth")
        inception = inception_v3(weights, sha256(weights))
        of = "" if arguments.inception else ", random weights"
        for extractor, features, file in ((OFFLINE, efficientnet_lite0(), None), (INCEPTION, inception, weights)):
            mine = list(ours(folders, features, Path(aside) / "cache").values())
            other = theirs(folders, extractor, min(1000, count), file)
            names = "frechet_inception_distance", "kernel_inception_distance_mean", "precision", "recall"
            row = {name: [mine[i], other[name]] for i, name in enumerate(names)}
            worst = max(worst, *(abs(x - y) / max(1, abs(y)) for x, y in row.values()))
            print(extractor, row, file=sys.stderr, flush=True)
            if count > features.dimension:  # else sqrtm has a singular matrix before it
                row["frechet_by_sqrtm"] = [by_sqrtm(folders, features)]
            rows[extractor + (of if file else "")] = row
    results = {"images": count, "ours, torch-fidelity's": rows, "worst": worst, "versions": versions()}
    results["versions"]["torch-fidelity"] = torch_fidelity.__version__
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.out:
        write_text(arguments.out, text + "\n")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
