"""Arguments and options that several commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from ulzoo.cli.completion import complete_models, complete_specs

Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="Name of a packaged spec (see [bold]ulzoo list[/]), a YAML file or hf://ORG/REPO.",
        autocompletion=complete_specs,
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
        autocompletion=complete_models,
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Name of a released model (released:NAME where a folder has that name too), an exported file, a run "
        "directory or hf://ORG/REPO@REVISION.",
        autocompletion=complete_models,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all noise.")]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT",
        help="Which images or clips: val or train, or all of a folder; default: val, with --images all.",
        show_default=False,
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR|FILES",
        help="Your own images in place of the model's data, resized and cropped to its size: a folder, or files.",
        show_default=False,
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Keys of the data section of the model's spec, e.g. root=DIR, or kind=video_folder root=DIR for another "
        "source with the model's sizes; several, repeatable.",
        show_default=False,
    ),
]
Decoder = Annotated[
    Literal["decoder", "distilled"] | None,
    typer.Option(
        help="Network that decodes; default: the distilled decoder, if the model has one with so many steps.",
        show_default=False,
    ),
]
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


class OwnDataCommand(TyperCommand):
    """A command with `Images` or `Data`, which take several words: what a shell makes of *.png, and key=value pairs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, bind_lists(args))


def bind_lists(args: Sequence[str]) -> list[str]:
    """The arguments with the option repeated for every further image file after --images and KEY=VALUE after --data."""
    fits: dict[str, Callable[[str], bool]] = {"--images": _is_image, "--data": lambda word: "=" in word}
    bound: list[str] = []
    rest = list(args)
    while rest:
        option = rest.pop(0)
        if option == "--":
            return [*bound, option, *rest]
        bound.append(option)
        if option in fits and rest:
            bound.append(rest.pop(0))
            while rest and not rest[0].startswith("-") and fits[option](rest[0]):
                bound += [option, rest.pop(0)]
    return bound


def _is_image(path: str) -> bool:
    from ulzoo.data.source import IMAGE_SUFFIXES

    return path.lower().endswith(IMAGE_SUFFIXES)
