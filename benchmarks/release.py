"""Release a trained run: its weights in float16 with codec and metrics, and its manifest with all that was measured.

    python -m benchmarks release runs/emoji32_curve --command "ulzoo train emoji32_curve --device cpu" \\
        --trained "55 minutes on one core of an AMD EPYC" --data "3,061 training images of …, MIT" \\
        [--samples 3000] [--reference train] [--without decoder] [--notes FILE] [--out registry/zoo]

The metrics are those of the rounded weights, on all validation data. With `--samples` a Fréchet distance is measured of
so many samples: from the images of `--reference` by EfficientNet-Lite0, or from validation clips by TransNetV2.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from ulzoo.cli.display.progress import phase_progress
from ulzoo.cli.display.terminal import console
from ulzoo.files.atomic import sha256, write_text
from ulzoo.registry import Spec, find_specs, load_spec
from ulzoo.registry.runs.evaluate import DistanceOptions, Evaluation, EvaluationOptions
from ulzoo.registry.runs.export import Export, export, load_export, save_export
from ulzoo.registry.spec.schema import changed_on_resume
from ulzoo.registry.zoo.release import ReleaseManifest, describe

ROOT = Path(__file__).parents[1]
LICENSE = "Apache-2.0"


def measured(loaded: Export, samples: int | None, reference: str) -> dict[str, Any]:
    """Metrics and their protocol on validation data."""
    distance = DistanceOptions()
    if samples and loaded.model.contract.video:
        distance = DistanceOptions("fd_transnetv2", clips=samples)
    elif samples:
        distance = DistanceOptions("fd_efficientnet_lite0", samples=samples, reference=reference)
    evaluation = Evaluation.open(loaded, EvaluationOptions(distance=distance), loaded.model.device)
    with phase_progress("images", quiet=False) as report:
        return evaluation.run(loaded.model, on_progress=report)


def rounded(value: Any, digits: int) -> Any:
    """Numbers of so many significant digits, in lists and dictionaries too."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def packaged(spec: Spec) -> Spec:
    """The packaged spec of a trained one, which has other paths of data; that spec itself if none is packaged."""
    if spec.name not in find_specs():
        return spec
    released = load_spec(spec.name)
    if changes := changed_on_resume(spec, released):
        raise SystemExit(f"{spec.name} was trained with another spec than the packaged one: {'; '.join(changes)}")
    return released


def release(
    trained: Path,
    out: Path,
    texts: dict[str, str],
    *,
    samples: int | None = None,
    reference: str = "train",
    without: Literal["decoder"] | None = None,
) -> ReleaseManifest:
    """Write `OUT/weights/NAME.safetensors` and `OUT/releases/NAME.yaml` of a run or an exported file."""
    with TemporaryDirectory() as folder:
        rounded_weights = Path(folder) / "model.safetensors"
        export(trained, rounded_weights, "float16", without=without, codec=True)
        results = measured(load_export(rounded_weights), samples, reference)
        loaded = load_export(rounded_weights)  # measuring prepares a model for inference
    name = loaded.spec.name
    weights = out / "weights" / f"{name}.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    kept = {key: results[key] for key in ("figures", "protocol")}
    save_export(weights, loaded.model, packaged(loaded.spec), kept, "float16")
    released = load_export(weights)
    fields, codec = describe(released), released.model.codec
    digits = {"figures": 5, "latent_statistics": 6}
    manifest = ReleaseManifest(
        **{key: rounded(value, digits[key]) if key in digits else value for key, value in fields.items()},
        sha256={weights.name: sha256(weights)},
        license=LICENSE,
        codec=codec and codec.to_dict(),
        **texts,
    )
    heading = f"# The released model {name}; `ulzoo evaluate {name}` measures the figures again.\n"
    (out / "releases").mkdir(exist_ok=True)
    write_text(out / "releases" / f"{name}.yaml", heading + manifest.to_yaml())
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained_model", metavar="RUN", type=Path, help="a run directory or an exported file")
    parser.add_argument("--command", required=True)
    parser.add_argument("--trained", required=True)
    parser.add_argument("--data", required=True, help="the training data, its authors and its licence")
    parser.add_argument("--notes", type=Path)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--reference", choices=("train", "val"), default="train")
    parser.add_argument("--without", choices=("decoder",), help="as ulzoo export --without")
    parser.add_argument("--out", type=Path, default=ROOT / "registry/zoo")
    arguments = parser.parse_args()
    notes = " ".join(arguments.notes.read_text(encoding="utf-8").split()) if arguments.notes else ""
    texts = {"command": arguments.command, "trained": arguments.trained, "data": arguments.data, "notes": notes}
    options = {name: getattr(arguments, name) for name in ("samples", "reference", "without")}
    manifest = release(arguments.trained_model, arguments.out, texts, **options)
    console().print(manifest.to_yaml(), highlight=False)


if __name__ == "__main__":
    main()
