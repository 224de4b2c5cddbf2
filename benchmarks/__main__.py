"""The runner of the benchmarks.

    python -m benchmarks                                # list the benchmarks
    python -m benchmarks NAME [--device D] [--json] ... # run one; NAME --help lists its other options

With `--json` standard output is only the JSON that the benchmark wrote, and its other output goes to standard error.
The exit status is the benchmark's: 1 if it misses its bar.
"""

import ast
import contextlib
import importlib
import json
import sys
import time
from itertools import pairwise
from pathlib import Path

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """Name -> first line of the docstring, for the files with a `main`; none is imported."""
    summaries = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path != Path(__file__) and any(
            isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body
        ):
            summaries[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return summaries


def run(name: str, arguments: list[str]) -> int:
    """Run the `main` of a benchmark with these arguments, and return its exit status."""
    sys.argv = [f"python -m benchmarks {name}", *arguments]
    try:
        return importlib.import_module(f"benchmarks.{name}").main() or 0
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
            return 1
        return int(stopped.code or 0)


def written_files(arguments: list[str], since: float) -> list[Path]:
    """The JSON files that a benchmark wrote, to `--out` or to the results."""
    outs = [Path(value) for flag, value in pairwise(arguments) if flag == "--out"]
    outs += [Path(flag.partition("=")[2]) for flag in arguments if flag.startswith("--out=")]
    out = outs[-1] if outs else FOLDER / "results"
    files = [out] if out.is_file() else sorted(out.glob("*.json"))
    return [path for path in files if path.stat().st_mtime >= since]


def main() -> int:
    name, *arguments = sys.argv[1:] or [""]
    summaries = benchmarks()
    if name in ("", "-h", "--help"):
        width = max(map(len, summaries))
        print(__doc__ if name else "\n".join(f"{key:<{width}}  {line}" for key, line in summaries.items()))
        return 0
    if name not in summaries:
        print(f"unknown benchmark {name!r}; choose from {', '.join(summaries)}", file=sys.stderr)
        return 2
    if "--json" not in arguments:
        return run(name, arguments)
    arguments.remove("--json")
    since = time.time() - 1  # clocks of file systems may be coarse
    with contextlib.redirect_stdout(sys.stderr):
        status = run(name, arguments)
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in written_files(arguments, since)]
    if contents:
        print(json.dumps(contents[0] if len(contents) == 1 else contents, indent=1))
    return status


if __name__ == "__main__":
    sys.exit(main())
