"""The command line. A command parses its options, calls the library and renders the result; it imports torch lazily."""

import logging
import os
import re
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ulzoo.cli import options
from ulzoo.cli.commands import (
    compress,
    decompress,
    ema,
    encode,
    evaluate,
    export,
    find,
    plot,
    prepare,
    push,
    reconstruct,
    report,
    sample,
    schema,
    show,
    sweep,
    train,
)
from ulzoo.cli.commands import list as list_
from ulzoo.cli.display.terminal import print_in_any_encoding, say
from ulzoo.version import __version__

__all__ = ["app", "main"]

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo list[/]                                    the packaged models
  [cyan]ulzoo sample emoji32_tiny[/]                     images by a released model
  [cyan]ulzoo train emoji32_tiny --dry-run[/]            what training would cost
  [cyan]ulzoo train emoji32_tiny --out runs/a[/]         train both stages
  [cyan]ulzoo reconstruct runs/a emoji32_tiny[/]         two models side by side
  [cyan]ulzoo evaluate runs/a --json[/]                  rate, PSNR, protocol
  [cyan]ulzoo sweep --loss-factor 1.5,2,3 --dry-run[/]   rate against distortion, point by point
"""


class CommandGroup(TyperGroup):
    """Errors: a user's mistake is one line and exit status 2, an error of the machine status 1, a bug a traceback."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            _configure_warnings()
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:
                say(f"interrupted{f'; {error}' if str(error) else ''}")
                raise typer.Exit(130) from None
            except ValueError as error:
                # with torchrun, one process per machine prints it
                if not re.fullmatch("0*[1-9][0-9]*", os.environ.get("LOCAL_RANK", "").strip()):
                    say(f"error: {error}")
                raise typer.Exit(2) from None
            except BrokenPipeError:
                raise
            except OSError as error:
                file = f"{error.filename}: " if error.filename else ""
                say(f"error: {file}{error.strerror or error}")
                raise typer.Exit(1) from None
            except ArithmeticError as error:
                if type(error).__name__ not in ("NonFiniteLoss", "NonFiniteOutput"):
                    raise
                say(f"error: {error}")
                raise typer.Exit(1) from None


def _configure_warnings() -> None:
    """Print ulzoo's warnings as one line each, and those of other libraries only with `python -W`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"ulzoo(\.|$)")
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")
    logging.getLogger("timm").setLevel(logging.ERROR)


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXAMPLES,
)


def _show_version(requested: bool) -> None:
    if requested:
        print(f"ulzoo {__version__}")
        raise typer.Exit


@app.callback()
def ulzoo(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Unified Latents from YAML: a spec is the whole model. Train, sample, evaluate and compare models."""


app.command(epilog=train.EXAMPLES)(train.train)
app.command(cls=sweep.SweepCommand, epilog=sweep.EXAMPLES)(sweep.sweep)
app.command(epilog=plot.EXAMPLES)(plot.plot)
app.command(epilog=report.EXAMPLES)(report.report)
app.command(epilog=find.EXAMPLES)(find.find)
app.command("list", epilog=list_.EXAMPLES)(list_.list_specs)
app.command(epilog=show.EXAMPLES)(show.show)
app.command(cls=options.OwnDataCommand, epilog=sample.EXAMPLES)(sample.sample)
app.command(cls=options.OwnDataCommand, epilog=reconstruct.EXAMPLES)(reconstruct.reconstruct)
app.command(cls=options.OwnDataCommand, epilog=encode.EXAMPLES)(encode.encode)
app.command(cls=options.OwnDataCommand, epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=compress.EXAMPLES)(compress.compress)
app.command(epilog=decompress.EXAMPLES)(decompress.decompress)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=ema.EXAMPLES)(ema.ema)
app.command(epilog=push.EXAMPLES)(push.push)
app.add_typer(prepare.app, name="prepare")
app.command(epilog=schema.EXAMPLES)(schema.schema)


def main() -> None:
    """The console script `ulzoo`."""
    print_in_any_encoding()
    app(prog_name="ulzoo")
