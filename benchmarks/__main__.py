"""The one runner of the benchmarks.

    python -m benchmarks                                # what there is
    python -m benchmarks NAME [--device D] [--json] ... # run one; NAME --help tells what else it takes

With `--json` standard output has nothing but the JSON that the benchmark wrote, and what it tells on its way goes to
standard error. The exit status is the benchmark's: 1 where one that has a bar misses it.
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
    """Name -> the first line of the docstring, of the files with a `main`; none is imported."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path != Path(__file__) and any(
            isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body
        ):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def run(name: str, arguments: list[str]) -> int:
    """Call the benchmark's `main`, as its file alone would run with these arguments; its exit status."""
    sys.argv = [f"python -m benchmarks {name}", *arguments]
    try:
        return importlib.import_module(f"benchmarks.{name}").main() or 0
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
            return 1
        return int(stopped.code or 0)


def written(arguments: list[str], since: float) -> list[Path]:
    """The JSON files that a benchmark wrote, under `--out` or among the results."""
    places = [Path(value) for flag, value in pairwise(arguments) if flag == "--out"]
    places += [Path(flag.partition("=")[2]) for flag in arguments if flag.startswith("--out=")]
    place = places[-1] if places else FOLDER / "results"
    files = [place] if place.is_file() else sorted(place.glob("*.json"))
    return [path for path in files if path.stat().st_mtime >= since]


def main() -> int:
    name, *arguments = sys.argv[1:] or [""]
    known = benchmarks()
    if name in ("", "-h", "--help"):
        print(__doc__ if name else "\n".join(f"{key:<{max(map(len, known))}}  {line}" for key, line in known.items()))
        return 0
    if name not in known:
        print(f"no benchmark is called {name!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if "--json" not in arguments:
        return run(name, arguments)
    arguments.remove("--json")
    since = time.time() - 1  # clocks of file systems may be coarse
    with contextlib.redirect_stdout(sys.stderr):
        status = run(name, arguments)
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in written(arguments, since)]
    if contents:
        print(json.dumps(contents[0] if len(contents) == 1 else contents, indent=1))
    return status


if __name__ == "__main__":
    sys.exit(main())
