"""Executes docs/tutorials/latents.ipynb and stores its outputs, without Jupyter.

    python -m benchmarks notebook [--out docs/tutorials/latents.ipynb]

What a cell prints and the value of its last line, a picture or anything with a repr, are its outputs.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorials" / "latents.ipynb"


def execute(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its code cells, which are executed in order in one namespace."""
    names: dict[str, Any] = {}
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number = sum(before["cell_type"] == "code" for before in cells) + 1
            cell = {**cell, "execution_count": number, "outputs": outputs("".join(cell["source"]), names, number)}
        cells.append(cell)
    return {**notebook, "cells": cells}


def outputs(code: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Execute a cell; the outputs in the notebook's format."""
    tree, value, printed = ast.parse(code), None, io.StringIO()
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    results = []
    if text := printed.getvalue():
        results.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        result = {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": bundle(value)}
        results.append(result)
    return results


def bundle(value: Any) -> dict[str, Any]:
    """The representations of a value by MIME type."""
    if not hasattr(value, "save"):
        return {"text/plain": [repr(value)]}
    content = io.BytesIO()
    value.quantize(256).save(content, "PNG", optimize=True)  # a third of the size
    text = f"<picture of {value.width}×{value.height} pixels>"
    return {"image/png": base64.b64encode(content.getvalue()).decode(), "text/plain": [text]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=NOTEBOOK)
    arguments = parser.parse_args()
    content = json.dumps(execute(json.loads(NOTEBOOK.read_text("utf-8"))), indent=1, ensure_ascii=False)
    arguments.out.write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
