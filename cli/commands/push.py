"""`ulzoo push`: a model to the Hugging Face hub."""

import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo push runs/a hf://me/emoji --license apache-2.0[/]
  [cyan]ulzoo push half.safetensors hf://me/emoji --revision half[/]    on a branch of its own
  [cyan]ulzoo sample hf://me/emoji@half[/]
"""


def push(
    model: Annotated[Path, typer.Argument(metavar="FILE_OR_RUN", help="An exported file or a run directory.")],
    address: Annotated[str, typer.Argument(metavar="hf://ORG/REPO", help="The repository; it is made if need be.")],
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch, made if need be; main if left out.")
    ] = None,
    license: Annotated[
        str, typer.Option(metavar="ID", help="Licence of the weights as the hub names it, such as apache-2.0.")
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; refuse one that is public.")
    ] = False,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Message of the commit.")] = "",
) -> None:
    """Publish a model on the Hugging Face hub: weights, spec, figures and their protocol, and a page for people.

    It is loaded before, so that nothing damaged is published. The token is the one of `hf auth login` or HF_TOKEN.
    """
    from huggingface_hub.utils import disable_progress_bars

    from ulzoo.registry.zoo.hub import Address
    from ulzoo.registry.zoo.publish import push as publish

    target = Address.parse(address)
    if target.revision and revision:
        raise ValueError(f"{address}: names a revision already; leave out --revision")
    if not sys.stderr.isatty():
        disable_progress_bars()
    done = publish(model, target._replace(revision=revision or target.revision), license, private, message)
    typer.echo(f"{', '.join(done.files)}, {'with' if done.measured else 'without'} figures")
    typer.echo(f"-> {done.address}")
