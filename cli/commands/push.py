"""`ulzoo push`: publish a model on the Hugging Face hub."""

import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo push runs/a hf://me/emoji --license apache-2.0[/]
  [cyan]ulzoo push half.safetensors hf://me/emoji --revision half[/]    on a branch
  [cyan]ulzoo sample hf://me/emoji@half[/]
"""


def push(
    model: Annotated[Path, typer.Argument(metavar="FILE_OR_RUN", help="An exported file or a run directory.")],
    address: Annotated[str, typer.Argument(metavar="hf://ORG/REPO", help="The repository, created if necessary.")],
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch, created if necessary; default: main.")
    ] = None,
    license: Annotated[
        str, typer.Option(metavar="ID", help="Licence of the weights as the hub names it, such as apache-2.0.")
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Create a private repository; refuse one that is public.")
    ] = False,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Commit message.")] = "",
) -> None:
    """Publish a model on the Hugging Face hub: weights, spec, metrics and their protocol, and a model card.

    The model is loaded first, so that nothing damaged is published. The token is that of `hf auth login` or HF_TOKEN.
    """
    from huggingface_hub.utils import disable_progress_bars

    from ulzoo.registry.zoo.hub import Address
    from ulzoo.registry.zoo.publish import push as publish

    target = Address.parse(address)
    if target.revision and revision:
        raise ValueError(f"{address}: names a revision already; leave out --revision")
    if not sys.stderr.isatty():
        disable_progress_bars()
    published = publish(model, target._replace(revision=revision or target.revision), license, private, message)
    print(f"{', '.join(published.files)}, {'with' if published.has_metrics else 'without'} metrics")
    print(f"-> {published.address}")
