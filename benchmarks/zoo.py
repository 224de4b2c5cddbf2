"""The zoo's page, docs/zoo.md, with its pictures: from the released weights and their manifests.

    python -m benchmarks zoo [NAME ...] [--text-only]      or `make zoo`

Each picture shows validation images, their reconstructions by the distilled decoder in all its steps and in one, and by
the decoder that it was distilled from if it is in the file, and samples; of models of video, a GIF shows clips,
reconstructions and continuations. Names draw these models' pictures again; the text is of all models.
"""

import argparse
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

from benchmarks.pictures import save_picture
from ulzoo.cli.display.terminal import scaled, short_shape
from ulzoo.data import Source
from ulzoo.files.atomic import write_text
from ulzoo.model.contract import NETWORKS
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import load_spec, open_model
from ulzoo.registry.compile import data_contract, open_source
from ulzoo.registry.zoo.catalogue import WEIGHTS, releases
from ulzoo.registry.zoo.overview import Entry, overview
from ulzoo.registry.zoo.release import ReleaseManifest
from ulzoo.visualization import (
    SampleRequest,
    reconstructed_clips,
    reconstruction_rows,
    sample_rows,
    sampled_clips,
    save_video,
)
from ulzoo.visualization.image_grid import GridRow, grid
from ulzoo.visualization.video import Band
from ulzoo.visualization.video_samples import FRAME_RATE

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs/zoo.md", ROOT / "docs/images/zoo"
SHOWN = 12
CLIPS_SHOWN = 3
LABELS = {
    "emoji3d": "Smileys,People,Food",
    "fashion_mnist": "Sneaker,Bag,Dress",
    "webdataset": "ms_pacman,qbert,space_invaders",
}
"""The classes of which samples are shown, by kind of data."""
VIDEO_DISTANCE = "fd_transnetv2"
HEADING = """# The zoo: released models

Trained on CPU cores, and small enough to be part of the package: `ulzoo.load("NAME")` reads them without a network, and
`ulzoo evaluate NAME` measures the figures again. `make zoo` writes this page from the weights and their manifests in
`registry/zoo/releases`, which contain the protocols. Rates are upper bounds on the bits in the latent z_0, ± one
standard error; PSNR and SSIM are of reconstructions of validation data. A file with a distilled decoder but no decoder
was made smaller by `ulzoo export --without decoder`: a base can be trained on its frozen networks ([init.md](init.md)),
while stage 1 goes on from it with a new decoder.
"""


def picture(model: UnifiedLatents, source: Source, labels: str) -> Image.Image:
    """Originals, reconstructions and samples of images, also of the classes `labels` if the model has classes."""
    rows = reconstructions(model, source)
    rows += sample_rows({"samples": model}, SampleRequest(2 * SHOWN))
    if model.contract.num_classes:
        rows += sample_rows({"samples, guidance 2": model}, SampleRequest(3 * SHOWN, labels=labels, guidance=2.0))
    return grid(rows, min_side=64)


def bands(model: UnifiedLatents, source: Source) -> list[Band]:
    """Clips above their reconstructions and above continuations of their first frames."""
    title, request = f"continuations of {model.contract.context_frames} frames", SampleRequest(CLIPS_SHOWN)
    (reconstructed,) = reconstructed_clips({"reconstructions": model}, source, CLIPS_SHOWN)
    ((_, continued),) = sampled_clips({title: model}, request, source=source)
    return [[*reconstructed, continued]]


def draw(name: str) -> None:
    """Save the picture of a released model."""
    released, path = open_model(name), PICTURES / picture_name(name)
    model, source = released.model, open_source(released.spec, "val")
    if model.contract.video:
        save_video(path, bands(model, source), model.contract.frame_rate or FRAME_RATE, min_side=64)
    else:
        save_picture(picture(model, source, LABELS[released.spec.data.kind]), path)


def picture_name(name: str) -> str:
    """The file name of its picture, which is animated if it generates clips."""
    return f"{name}.gif" if len(data_contract(load_spec(name)).size) > 2 else f"{name}.png"


def reconstructions(model: UnifiedLatents, source: Source) -> list[GridRow]:
    """Originals, and reconstructions by each decoder."""
    if model.distilled is None:
        return reconstruction_rows({"reconstructions": model}, source, SHOWN)
    several = reconstruction_rows({"distilled decoder": model}, source, SHOWN)
    one = reconstruction_rows({"distilled decoder, one step": model}, source, SHOWN, steps=1)
    if model.decoder is None:
        return [*several, one[1]]
    teacher = reconstruction_rows({"decoder": model}, source, SHOWN, network="decoder")
    return [*several, one[1], teacher[1]]


def generation(manifest: ReleaseManifest) -> dict[str, str]:
    """The distances of reconstructions and samples; {} if they were not measured."""
    figures = manifest.figures
    if "gfd_efficientnet_lite0" not in figures:
        return {}
    of_reconstructions, of_samples = (figures[f"{kind}_efficientnet_lite0"] for kind in ("rfd", "gfd"))
    generated = manifest.protocol["generated"]
    reference = "validation images" if generated["reference"] == "val" else "training images"
    text = (
        f"{of_reconstructions:.0f} (reconstructions), {of_samples:.0f} ({generated['samples']:,} samples, {reference})"
    )
    return {"Fréchet distances": f"{text}; EfficientNet-Lite0's features, not FID"}


def prediction(figures: Mapping[str, Any]) -> dict[str, str]:
    """The PSNR and distance of continued clips beside those of repeating the last context frame; {} for images."""
    rows = {}
    for key, text in (("psnr_db_first_2", "PSNR of the first two generated frames"), ("psnr_db", "of all of them")):
        if f"prediction_{key}" in figures:
            continued, copied = figures[f"prediction_{key}"], figures[f"copy_last_{key}"]
            rows[text] = f"{continued:.2f} dB (the last context frame, repeated: {copied:.2f} dB)"
    if VIDEO_DISTANCE in figures:
        copied = figures[f"{VIDEO_DISTANCE}_copy_last"]
        text = f"{figures[VIDEO_DISTANCE]:.4g} (the last context frame, repeated: {copied:.4g})"
        rows["Fréchet distance of clips"] = f"{text}; TransNetV2's features, not FVD"
    return rows


def count_parameters(weights: Path) -> Counter[str]:
    """Of the released networks, of which one may be missing in the spec or in the file."""
    counts: Counter[str] = Counter()
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            counts[name.partition(".")[0]] += math.prod(file.get_slice(name).get_shape())
    return counts


def section(entry: Entry) -> str:
    """A released model in words and figures."""
    manifest = releases()[entry.name]
    figures, weights = manifest.figures, WEIGHTS / manifest.weights
    counts = count_parameters(weights)
    rates = {
        name: f"{figures[key]:.4f} ± {figures[f'{key}_se']:.4f} bits/pixel"
        for name, key in (("prior", "bits_per_pixel"), ("base", "base_bits_per_pixel"))
    }
    rows = {
        "data": manifest.data,
        "size, latent": f"{short_shape(entry.resolution)}, {'×'.join(map(str, entry.latent))}",
        "rate by prior, by base": f"{rates['prior']}, {rates['base']}",
        "PSNR, SSIM": f"{figures['psnr_db']:.2f} dB, {figures['ssim']:.3f}",
    }
    rows |= generation(manifest) | prediction(figures)
    if entry.loss_factors:
        low, high = entry.loss_factors
        rows["loss factors"] = f"{low:g} to {high:g}; the figures are of the middle"
    rows |= {
        "parameters, file": f"{scaled(counts.total())}, {scaled(weights.stat().st_size, 'B')}",
        "networks": ", ".join(network for network in NETWORKS if network in counts),
        "trained": manifest.trained,
        "by": f"`{manifest.command}`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    link = f"[manifest](../registry/zoo/releases/{entry.name}.yaml)"
    image = f"![{entry.name}: originals, reconstructions and samples](images/zoo/{picture_name(entry.name)})"
    if entry.loss_factors:
        image += f"\n\n![{entry.name}: PSNR against rate](../benchmarks/results/{entry.name}.png)"
    return f"## {entry.name}\n\n{manifest.notes} ({link})\n\n| | |\n|---|---|\n{table}\n\n{image}\n"


def text() -> str:
    """The page."""
    return "\n".join([HEADING, *(section(entry) for entry in overview(pretrained=True))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--text-only", action="store_true")
    arguments = parser.parse_args()
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in [] if arguments.text_only else arguments.names or releases():
        draw(name)
    write_text(PAGE, text())
    print(PAGE)


if __name__ == "__main__":
    main()
