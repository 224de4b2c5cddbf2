"""Arguments and options that several commands take."""

from typing import Annotated, Literal

import typer

Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC", help="A packaged spec's name (see [bold]ulzoo list[/]), a YAML file or hf://ORG/REPO."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of the spec, as in train.base.steps=500; repeatable."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="D", help="cpu, cuda, cuda:N or mps; the best one here if left out.", show_default=False),
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
        metavar="MODEL", help="A released model's name, an exported file, a run directory or hf://ORG/REPO@REVISION."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all noise.")]
Split = Annotated[str, typer.Option(metavar="SPLIT", help="Which images or clips: val or train.")]
Precision = Annotated[
    Literal["fp32", "bf16"], typer.Option(help="Of the networks: bf16 is quicker where the device multiplies it.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the networks first: seconds or minutes that many images repay.")
]
