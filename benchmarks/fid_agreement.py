"""Our distances between two folders of images compared with those of torch-fidelity's command on the same files.

    python -m benchmarks fid_agreement [--images 350] [--folders A B] [--inception WEIGHTS] [--out results.json]

Without `--folders`, the two halves of the embedded emoji for training are written as PNG at 64×64. Features are
EfficientNet-Lite0's, whose weights come with a package, registered with torch-fidelity; and Inception's, with
torch-fidelity's weights or, without `--inception`, random ones, for which resizing, layers and distance are the same.
torch-fidelity runs as `fidelity --input1 A --input2 B --fid --kid --prc` in a separate process. Its Fréchet distance
(eigenvalues of a general matrix) and ours (float64, two symmetric eigendecompositions) are compared with scipy's
`sqrtm` of float32 features, as in pytorch-fid and ADM. Exit status 1 if ours and the command's differ by more
than 1e-3, relatively.
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
    samples = FeatureCollector(features, keep=True)
    for batch in in_order(a, BATCH):
        samples.add(batch["x"])
    return samples.metrics("g", reference, seed=0)[0]


def theirs(folders: list[Path], extractor: str, size: int, weights: Path | None) -> dict[str, float]:
    """The output of torch-fidelity's command, with our extractor registered."""
    command = ["--input1", str(folders[0]), "--input2", str(folders[1]), "--cpu", "--fid", "--kid", "--prc", "--json"]
    command += ["--feature-extractor", extractor, "--kid-subset-size", str(size), "--rng-seed", "0", "--no-cache"]
    command += ["--batch-size", str(BATCH), "--silent"]
    command += ["--feature-extractor-weights-path", str(weights)] if weights else []
    done = subprocess.run([sys.executable, "-c", COMMAND, *command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def random_inception(path: Path) -> Path:
    """Write random weights of the network, whose class otherwise loads the published ones."""
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
    """The Fréchet distance as in pytorch-fid, of torch-fidelity's mean and covariance of float32 features."""
    moments = []
    for folder in folders:
        values = torch.cat([features(part)[0] for part in read(folder).images.split(BATCH)]).numpy()
        moments.append((values.mean(0), np.cov(values, rowvar=False)))
    (mean_a, covariance_a), (mean_b, covariance_b) = moments
    root = linalg.sqrtm(covariance_a @ covariance_b).real
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(covariance_a + covariance_b - 2 * root))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=350, help="number of images in each half of the emoji")
    parser.add_argument("--folders", type=Path, nargs=2, help="two folders of PNG files of one size instead")
    parser.add_argument("--inception", type=Path, help="torch-fidelity's weights")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worst, rows = 0.0, {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = arguments.folders or write_folders(Path(temporary), arguments.images)
        count = min(len(list(folder.glob("*.png"))) for folder in folders)
        weights = arguments.inception or random_inception(Path(temporary) / "random.pth")
        inception = inception_v3(weights, sha256(weights))
        suffix = "" if arguments.inception else ", random weights"
        for extractor, features, file in ((OFFLINE, efficientnet_lite0(), None), (INCEPTION, inception, weights)):
            mine = list(ours(folders, features, Path(temporary) / "cache").values())
            other = theirs(folders, extractor, min(1000, count), file)
            names = "frechet_inception_distance", "kernel_inception_distance_mean", "precision", "recall"
            row = {name: [mine[i], other[name]] for i, name in enumerate(names)}
            worst = max(worst, *(abs(x - y) / max(1, abs(y)) for x, y in row.values()))
            print(extractor, row, file=sys.stderr, flush=True)
            if count > features.dimension:  # otherwise the matrix is singular
                row["frechet_by_sqrtm"] = [by_sqrtm(folders, features)]
            rows[extractor + (suffix if file else "")] = row
    results = {"images": count, "ours, torch-fidelity's": rows, "worst": worst, "versions": versions()}
    results["versions"]["torch-fidelity"] = torch_fidelity.__version__
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.out:
        write_text(arguments.out, text + "\n")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
