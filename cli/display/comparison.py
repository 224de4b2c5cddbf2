"""`ulzoo evaluate A B --compare`: figures of two models side by side, where they were measured alike."""

import typer

from ulzoo.cli.display.terminal import console, plain_table, to_json


def show_comparison(names: list[str], json: bool) -> None:
    """Print what compares and, of the rest, what keeps it from it.

    Raises:
        ValueError: not two, or without figures in common.
        typer.Exit: status 1, some figures do not compare.
    """
    from ulzoo.evaluation.protocol import compare
    from ulzoo.registry.zoo.catalogue import open_results

    if len(names) != 2:
        raise ValueError(f"--compare takes two models or JSON files, not {len(names)}")
    found = compare(*(open_results(name) for name in names))
    if json:
        rows = [
            {
                "figure": row.figure,
                "a": row.a,
                "b": row.b,
                "difference": None if row.differences else row.b - row.a,
                "differs_in": list(row.differences),
            }
            for row in found
        ]
        typer.echo(to_json(rows))
    else:
        alike = [row for row in found if not row.differences]
        if alike:
            table = plain_table("figure", *names, "difference")
            for row in alike:
                table.add_row(row.figure, f"{row.a:.6g}", f"{row.b:.6g}", f"{row.b - row.a:+.4g}")
            console().print(table)
        reasons: dict[tuple[str, ...], list[str]] = {}
        for row in found:
            if row.differences:
                reasons.setdefault(row.differences, []).append(row.figure)
        for differing, figures in reasons.items():
            typer.echo(f"not comparable: {', '.join(figures)}")
            for words in differing:
                typer.echo(f"  {words}")
    if any(row.differences for row in found):
        raise typer.Exit(1)
