"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC", help="Name of a packaged spec (see [bold]ulzoo list[/]), a YAML file or hf://ORG/REPO."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the spec, e.g. train.base.steps=500; repeatable."),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="D", help="cpu, cuda, cuda:N or mps; default: the best one available.", show_default=False),
]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Released models, exported files, run directories or hf://ORG/REPO@REVISION; several go side by side.",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Name of a released model (released:NAME where a folder has that name too), an exported file, a run "
        "directory or hf://ORG/REPO@REVISION.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all noise.")]
Split = Annotated[str, typer.Option(metavar="SPLIT", help="Which images or clips: val or train.")]
Precision = Annotated[
    Literal["fp32", "bf16"],
    typer.Option(help="Precision of the networks; bf16 is faster on devices with native support."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the networks first: takes seconds to minutes, pays off for many images."),
]
Count = Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Number of images or clips of each model.")]
Picture = Annotated[
    Path,
    typer.Option(
        metavar="FILE.png",
        dir_okay=False,
        help="The picture to write. For clips: a contact sheet, and FILE.mp4 and FILE.webp (or .gif) beside it.",
    ),
]
Store = Annotated[Path, typer.Argument(metavar="STORE", help="The folder of a sweep, such as runs/sweeps/NAME.")]
