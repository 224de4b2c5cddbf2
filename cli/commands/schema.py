"""`ulzoo schema`: the JSON Schema of specs."""

from pathlib import Path
from typing import Annotated

import typer

from ulzoo.cli.display.terminal import to_json

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo schema --out schema.json[/]      then, as the first line of a spec:
  [cyan]# yaml-language-server: $schema=schema.json[/]
"""


def schema(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write a file instead of printing.")
    ] = None,
) -> None:
    """Print the JSON Schema of specs, for editors."""
    from ulzoo.files.atomic import write_text
    from ulzoo.registry.spec.schema import json_schema

    text = to_json(json_schema())
    if out is None:
        print(text)
    else:
        write_text(out, text + "\n")
        print(out)
