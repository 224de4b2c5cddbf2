"""What `ulzoo sample` and `ulzoo reconstruct` share: models side by side, the data beside them, the file they write."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ulzoo.cli.display.terminal import examples, say
from ulzoo.files.atomic import check_destination

if TYPE_CHECKING:
    from ulzoo.data import Source
    from ulzoo.model.unified_latents import UnifiedLatents
    from ulzoo.registry.runs.export import Export


def check_picture(out: Path) -> None:
    """Raise ValueError if no picture is written under this suffix, or no file can be written there."""
    if out.suffix.lower() not in (".png", ".mp4", ".webp", ".gif"):
        raise ValueError(f"{out}: pictures are written as PNG; let the name end in .png")
    check_destination(out)


def open_models(
    names: list[str], device: str | None, precision: Literal["fp32", "bf16"], compile: bool
) -> "dict[str, Export]":
    """Load models, by their names as typed, and prepare them for inference."""
    from ulzoo.registry.runs.inference import optimize_for_inference
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device

    picked = pick_device(device)
    exports = {name: open_model(name, picked) for name in names}
    for export in exports.values():
        optimize_for_inference(export.model, precision=precision, compile=compile)
    return exports


def check_video(models: "Mapping[str, UnifiedLatents]", out: Path) -> bool:
    """Whether the models generate clips.

    Raises:
        ValueError: some generate clips and others images, `out` is a video of image models, or one of the files of
            clips cannot be written.
    """
    is_video = {name: model.contract.video for name, model in models.items()}
    if len(set(is_video.values())) > 1:
        clips, images = (next(name for name, video in is_video.items() if video is kind) for kind in (True, False))
        raise ValueError(f"{clips} makes clips and {images} images: draw them one after the other")
    video = True in is_video.values()
    if not video and out.suffix.lower() != ".png":
        raise ValueError(f"{out}: images are written as PNG; let the name end in .png")
    for suffix in (".png", ".mp4", ".gif" if out.suffix.lower() == ".gif" else ".webp") if video else ():
        check_destination(out.with_suffix(suffix))
    return video


def open_data(
    exports: "Mapping[str, Export]",
    split: str | None,
    n: int | None,
    images: list[str] | None = None,
    data: list[str] | None = None,
    samples: bool = False,
) -> "Source":
    """A split of the first model's data, or of that given in its place; warns if it has fewer than `n` examples.

    Args:
        split: of the data; None for val, or all of the images.
        n: number of examples to draw.
        images: the option --images.
        data: the option --data.
        samples: its captions are for samples.
    """
    from ulzoo.registry.runs import own_data

    first = next(iter(exports.values()))
    spec = own_data.replace_data(first, images or (), data or ())
    split = split or own_data.default_split(images)
    source = own_data.open_data(first, spec, split, samples=samples)
    if n and len(source) < n:
        say(f"warning: there are {len(source)} {examples(first.model.contract.size)} in {split}, not {n}")
    return source
