"""Tables without frames, and the table of metrics."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DISTORTIONS = {
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips_alex": "LPIPS, AlexNet",
    "lpips_vgg": "LPIPS, VGG-16",
    "st_lpips_alex": "shift-tolerant LPIPS (not LPIPS)",
}
PREDICTIONS = {"prediction": "PSNR of generated frames", "copy_last": "PSNR of the last context frame, repeated"}
VIDEO_DISTANCES = {"fvd": "FVD, one clip per video", "fd_transnetv2": "Fréchet distance, TransNetV2 (not FVD)"}
IMAGE_DISTANCES = {
    "fid": "FID",
    "fd": "Fréchet distance",
    "kid": "KID",
    "kd": "kernel distance",
    "precision": "precision",
    "recall": "recall",
}
CLIP_PROTOCOL = re.compile(r"(fvd|fd_transnetv2)_k600_(\d+)(?:_(\d+)x(\d+))?")
OTHER_FEATURES = {"_efficientnet_lite0": "EfficientNet-Lite0", "_dinov2": "DINOv2"}


def plain_table(*columns: str, left: Sequence[str] = ()) -> "Table":
    """A table without a frame. Columns are right-aligned except the first and those in `left`."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        is_text = i == 0 or column in left
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    return table


def pair_table() -> "Table":
    """A table of two columns, names and values, without a header."""
    table = plain_table("", "", left=("",))
    table.show_header = False
    return table


def metrics_table(metrics: Mapping[str, Any]) -> "Table":
    """PSNR, SSIM, LPIPS, the rate by the prior and by the base, and whatever else was measured, one metric per row."""
    table = pair_table()
    table.columns[1].justify = "right"
    table.add_row("PSNR of reconstructions", f"{metrics['psnr_db']:.2f} dB")
    if "mean_image_psnr_db" in metrics:
        table.add_row("  of the training mean", f"{metrics['mean_image_psnr_db']:.2f} dB")
    for name, title in DISTORTIONS.items():
        if name in metrics:
            table.add_row(f"{title} of reconstructions", f"{metrics[name]:.4f}")
    for prefix, network in (("", "prior"), ("base_", "base")):
        if f"{prefix}bits_per_pixel" in metrics:
            error = metrics.get(f"{prefix}bits_per_pixel_se")
            plus_minus = "" if error is None else f" ± {error:.4f}"
            table.add_row(f"rate by the {network}", f"{metrics[f'{prefix}bits_per_pixel']:.4f}{plus_minus} bits/pixel")
            table.add_row("", f"{metrics[f'{prefix}bits_per_dimension']:.4f} bits/dimension")
    if "clip_score" in metrics:
        table.add_row("CLIP score of samples", f"{metrics['clip_score']:.2f} ± {metrics['clip_score_se']:.2f}")
    for name, title in PREDICTIONS.items():
        if f"{name}_psnr_db" in metrics:
            table.add_row(title, f"{metrics[f'{name}_psnr_db']:.2f} dB")
            table.add_row("  the first two", f"{metrics[f'{name}_psnr_db_first_2']:.2f} dB")
    for name, title in VIDEO_DISTANCES.items():
        if name in metrics:
            table.add_row(title, f"{metrics[name]:.4g}")
            if f"{name}_copy_last" in metrics:
                table.add_row("  of the last context frame, repeated", f"{metrics[f'{name}_copy_last']:.4g}")
    for name, value in metrics.items():
        if clips := CLIP_PROTOCOL.fullmatch(name):
            features, side, folds, samples = clips.groups(default="")
            numbers = f", {folds} × {int(samples):,} samples" if folds else ""
            title = "FVD" if features == "fvd" else VIDEO_DISTANCES[features]
            table.add_row(f"{title}, Kinetics-600's protocol at {side}²{numbers}", _with_deviation(metrics, name))
        if distance := _image_distance(name):
            table.add_row(distance, f"{value:.4g}")
    return table


def print_cautions(console: "Console", results: Mapping[str, Any]) -> None:
    """Print what is wrong with a result, one line each."""
    for line in results.get("cautions", []):
        console.print(f"caution: {line}", style="yellow", soft_wrap=True, markup=False)


def _with_deviation(metrics: Mapping[str, Any], name: str) -> str:
    """A mean over folds and, if there are several, its standard deviation."""
    deviation = metrics.get(f"{name}_std")
    return f"{metrics[name]:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")


def _image_distance(name: str) -> str | None:
    """The title of a metric between sets of images, such as "rFID@50k of reconstructions" for "rfid_50k"; else None."""
    if name == "inception_score":
        return "Inception score"
    features = next((title for suffix, title in OTHER_FEATURES.items() if name.endswith(suffix)), "")
    kind, _, count = name[1:].partition("_")
    if name[0] not in "rg" or kind not in IMAGE_DISTANCES:
        return None
    images = "reconstructions" if name[0] == "r" else "samples"
    title = f"{name[0]}FID" if kind == "fid" else IMAGE_DISTANCES[kind]
    at = f"@{count}" if count and not features else ""
    return f"{title}{at} of {images}{features and f', {features} (not FID)'}"
