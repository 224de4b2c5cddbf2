"""What the commands share on a terminal: consoles, one-line messages, numbers as people read them."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_OF_A_PIPE = 120


def console(stderr: bool = False) -> "Console":
    """For results on stdout, or for progress on stderr; colours and live displays on a terminal only."""
    from rich.console import Console

    shown = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not shown.is_terminal and "COLUMNS" not in os.environ:
        shown.width = WIDTH_OF_A_PIPE
    return shown


def say(message: object) -> None:
    """One line on stderr, above a live display if there is one."""
    print(" ".join(str(message).split()), file=sys.stderr, flush=True)


def plain_table(*columns: str, left: Sequence[str] = ()) -> "Table":
    """A table without a frame; columns of numbers, to the right, but for the first and those named in `left`."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        textual = i == 0 or column in left
        table.add_column(column, justify="left" if textual else "right", overflow="fold")
    return table


def scaled(value: float, unit: str = "") -> str:
    """1234567 -> "1.23 M", with three digits."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{three(value / factor)} {prefix}{unit}"
    return f"{three(value)} {unit}".rstrip()


def gflops(value: float) -> str:
    """FLOPs as GFLOPs with three digits."""
    return three(value / 1e9)


def three(value: float) -> str:
    magnitude = abs(value)
    places = 0 if magnitude >= 99.95 or magnitude == 0 else 1 if magnitude >= 9.995 else 2 if magnitude >= 0.9995 else 3
    return f"{value:,.{places}f}"


def shape(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def square(size: Sequence[int]) -> str:
    """(32, 32) -> "32²", (16, 64, 64) -> "16×64²"."""
    *before, height, width = size
    return "×".join([*map(str, before), f"{width}²"]) if height == width else shape(size)


def examples(size: Sequence[int], plural: bool = True) -> str:
    """What data of this size are: "images" of (h, w), "clips" of (t, h, w)."""
    return ("clip" if len(size) == 3 else "image") + "s" * plural


def duration(seconds: float) -> str:
    """75 -> "1:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def pairs() -> "Table":
    """Names and what they stand for, to be added as rows."""
    table = plain_table("", "", left=("",))
    table.show_header = False
    return table


def figures_table(figures: dict[str, Any]) -> "Table":
    """PSNR, SSIM, LPIPS, the rate by the prior and by the base, and what else was measured, one a line."""
    table = pairs()
    table.columns[1].justify = "right"
    table.add_row("PSNR of reconstructions", f"{figures['psnr_db']:.2f} dB")
    for name, words in (
        *(("ssim", "SSIM"), ("ms_ssim", "MS-SSIM"), ("lpips_alex", "LPIPS, AlexNet"), ("lpips_vgg", "LPIPS, VGG-16")),
        ("st_lpips_alex", "shift-tolerant LPIPS (not LPIPS)"),
    ):
        if name in figures:
            table.add_row(f"{words} of reconstructions", f"{figures[name]:.4f}")
    for prefix, network in (("", "prior"), ("base_", "base")):
        if f"{prefix}bits_per_pixel" in figures:
            error = figures.get(f"{prefix}bits_per_pixel_se")
            sure = "" if error is None else f" ± {error:.4f}"
            table.add_row(f"rate by the {network}", f"{figures[f'{prefix}bits_per_pixel']:.4f}{sure} bits/pixel")
            table.add_row("", f"{figures[f'{prefix}bits_per_dimension']:.4f} bits/dimension")
    for name, words in (("prediction", "PSNR of generated frames"), ("copy_last", "PSNR of the last given, repeated")):
        if f"{name}_psnr_db" in figures:
            table.add_row(words, f"{figures[f'{name}_psnr_db']:.2f} dB")
            table.add_row("  the first two", f"{figures[f'{name}_psnr_db_first_2']:.2f} dB")
    for name, words in (("fvd", "FVD"), ("fd_transnetv2", "Fréchet distance, TransNetV2 (not FVD)")):
        if name in figures:
            table.add_row(words, f"{figures[name]:.4g}")
    for name, value in figures.items():
        if words := _distance(name):
            table.add_row(words, f"{value:.4g}")
    return table


def _distance(name: str) -> str | None:
    """Of a figure between sets of images, in words: "rfid_50k" -> "rFID@50k, of reconstructions"."""
    if name == "inception_score":
        return "Inception score"
    other = next((words for network, words in _NETWORKS.items() if name.endswith(network)), "")
    short, _, count = name[1:].partition("_")
    words = {"fid": "FID", "fd": "Fréchet distance", "kid": "KID", "kd": "kernel distance"}
    words |= {"precision": "precision", "recall": "recall"}
    if name[0] not in "rg" or short not in words:
        return None
    whose = "reconstructions" if name[0] == "r" else "samples"
    named = f"{name[0]}FID" if short == "fid" else words[short]
    at = f"@{count}" if count and not other else ""
    return f"{named}{at} of {whose}{other and f', {other} (not FID)'}"


_NETWORKS = {"_efficientnet_lite0": "EfficientNet-Lite0", "_dinov2": "DINOv2"}


def to_json(data: Any) -> str:
    import json

    return json.dumps(data, indent=1, ensure_ascii=False)
