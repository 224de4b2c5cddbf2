"""`ulzoo evaluate A B --compare`: the comparable metrics of two models side by side."""

import typer

from ulzoo.cli.display.tables import plain_table
from ulzoo.cli.display.terminal import console, to_json


def show_comparison(names: list[str], json: bool) -> None:
    """Print the metrics that are comparable and, for the others, the protocol fields that differ.

    Args:
        names: two models or JSON files.
        json: print JSON instead of a table.

    Raises:
        ValueError: there are not two names, or they have no metric in common.
        typer.Exit: with status 1 if some metrics are not comparable.
    """
    from ulzoo.evaluation.protocol import compare
    from ulzoo.registry.zoo.catalogue import open_results

    if len(names) != 2:
        raise ValueError(f"--compare takes two models or JSON files, not {len(names)}")
    comparisons = compare(*(open_results(name) for name in names))
    if json:
        rows = [
            {
                "figure": row.figure,
                "a": row.a,
                "b": row.b,
                "difference": None if row.differences else row.b - row.a,
                "differs_in": list(row.differences),
            }
            for row in comparisons
        ]
        print(to_json(rows))
    else:
        comparable = [row for row in comparisons if not row.differences]
        if comparable:
            table = plain_table("figure", *names, "difference")
            for row in comparable:
                table.add_row(row.figure, f"{row.a:.6g}", f"{row.b:.6g}", f"{row.b - row.a:+.4g}")
            console().print(table)
        reasons: dict[tuple[str, ...], list[str]] = {}
        for row in comparisons:
            if row.differences:
                reasons.setdefault(row.differences, []).append(row.figure)
        for differences, metrics in reasons.items():
            print(f"not comparable: {', '.join(metrics)}")
            for line in differences:
                print(f"  {line}")
    if any(row.differences for row in comparisons):
        raise typer.Exit(1)
