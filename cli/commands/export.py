"""`ulzoo export` and `ulzoo schema`: files for others to read."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ulzoo.cli.display.terminal import scaled, to_json

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo export runs/a --out a.safetensors[/]
  [cyan]ulzoo export runs/a/checkpoints/latents-00000300 --out early.safetensors[/]
  [cyan]ulzoo export a.safetensors --out half.safetensors --dtype bfloat16[/]
"""
SCHEMA_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo schema --out schema.json[/]      then, as the first line of a spec:
  [cyan]# yaml-language-server: $schema=schema.json[/]
"""


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A run directory, of which the newest whole checkpoint is taken; a training checkpoint; or, with "
            "--dtype, an export to store in another precision.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", dir_okay=False, help="The file to write.")],
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="How weights are stored; float32 if left out. Computed with they are in float32."),
    ] = None,
) -> None:
    """Make a training checkpoint one loadable file: averaged weights, the spec, the figures.

    Figures go along if they were measured at this step, and with unrounded weights only.
    """
    from ulzoo.registry.runs.convert import export as convert

    done = convert(checkpoint, out, dtype)
    where = f" (stage {done.stage}, step {done.step:,})" if done.stage else ""
    typer.echo(f"{done.source}{where}")
    typer.echo(f"-> {out}: {scaled(done.size, 'B')}, {'with' if done.measured else 'without'} figures")
    typer.echo(f"sha256 {done.sha256}")


def schema(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write here instead of to the terminal.")
    ] = None,
) -> None:
    """Print the JSON Schema of specs, for editors."""
    from ulzoo.files.atomic import write_text
    from ulzoo.registry.spec.schema import json_schema

    text = to_json(json_schema())
    if out is None:
        typer.echo(text)
    else:
        write_text(out, text + "\n")
        typer.echo(out)
