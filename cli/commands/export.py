"""`ulzoo export`: a training checkpoint as one loadable file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ulzoo.cli.display.terminal import scaled

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo export runs/a --out a.safetensors[/]
  [cyan]ulzoo export runs/a/checkpoints/latents-00000300 --out early.safetensors[/]
  [cyan]ulzoo export a.safetensors --out half.safetensors --dtype bfloat16[/]
  [cyan]ulzoo export a.safetensors --out small.safetensors --without decoder[/]      its distilled decoder decodes
  [cyan]ulzoo export a.safetensors --out a.safetensors --codec[/]      then ulzoo compress works
"""


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A run directory, whose newest intact checkpoint is exported; a training checkpoint; or, with "
            "--dtype, --without or --codec, an export.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", dir_okay=False, help="The file to write.")],
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="Type that weights are stored in; default: float32. Models compute in float32 in any case."),
    ] = None,
    without: Annotated[
        Literal["decoder"] | None,
        typer.Option(help="Leave out the decoder that a distilled decoder replaces.", show_default=False),
    ] = None,
    codec: Annotated[
        bool,
        typer.Option("--codec", help="Measure what `ulzoo compress` needs, on training data; also of an export."),
    ] = False,
) -> None:
    """Export a training checkpoint as one loadable file: averaged weights, the spec, the metrics.

    The metrics are included if they were measured at this step and the weights are not rounded.
    """
    from ulzoo.files.atomic import check_destination
    from ulzoo.registry.runs.export import export as convert

    check_destination(out)
    exported = convert(checkpoint, out, dtype, without=without, codec=codec)
    step = f" (stage {exported.stage}, step {exported.step:,})" if exported.stage else ""
    print(f"{exported.source}{step}")
    print(f"-> {out}: {scaled(exported.size, 'B')}, {'with' if exported.has_metrics else 'without'} metrics")
    print(f"sha256 {exported.sha256}")
