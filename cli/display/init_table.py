"""Weights of another model: what a spec asks for, and what was loaded of each network."""

from typing import TYPE_CHECKING

from ulzoo.cli.display.tables import plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from ulzoo.registry.runs.initialize import InitReport, PartReport
    from ulzoo.registry.spec.sections import InitConfig

SHOWN_TENSORS = 4
"""New tensors of a network that are listed; `init.json` lists all of them."""


def init_line(init: "InitConfig") -> str:
    """One line about the weights that training starts from."""
    parts = ", ".join(init.parts) if init.parts else "all parts that fit"
    frozen = f"; frozen: {', '.join(init.freeze)}" if init.freeze else ""
    digest = f" (SHA-256 {init.sha256[:12]}…)" if init.sha256 else ""
    return f"weights of {init.model}{digest}: {parts}{frozen}"


def print_init(console: "Console", report: "InitReport") -> None:
    """Print a table with one network per row, and below it the tensors that are new, and keys with other values."""
    table = plain_table(f"from {report.model}", "tensors", "parameters", "")
    for part in report.parts:
        tensors = f"{part.loaded} of {part.tensors}"
        parameters = f"{part.loaded_parameters:,} of {part.parameters:,}"
        table.add_row(part.part, tensors, parameters, "frozen" if part.frozen else "")
    console.print(table)
    for part in report.parts:
        for remark in _remarks(part):
            console.print(f"  {part.part}: {remark}", markup=False, soft_wrap=True)
    console.print(f"SHA-256 of its weights: {report.sha256[:12]}…")


def _remarks(part: "PartReport") -> list[str]:
    new = list(part.new.items())
    if new and not part.loaded and len(set(part.new.values())) == 1:
        return [f"new, {new[0][1]}"]
    lines = [f"new {name}, {reason}" for name, reason in new[:SHOWN_TENSORS]]
    if len(new) > SHOWN_TENSORS:
        lines.append(f"new, {len(new) - SHOWN_TENSORS} more tensors: see init.json")
    if part.unused:
        lines.append(f"not used: {part.unused[0]}" + (f" and {len(part.unused) - 1} more" if part.unused[1:] else ""))
    return lines + [f"other key, {change}" for change in part.changed]
