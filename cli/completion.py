"""Completion of names on the command line, in shells where `ulzoo --install-completion` was run; imports no torch."""

from pathlib import Path


def complete_specs(incomplete: str) -> list[str]:
    """Names of packaged specs and sweeps; a shell completes paths itself where there are none."""
    from ulzoo.registry import find_specs, find_sweeps

    return [name for name in (*find_specs(), *find_sweeps()) if name.startswith(incomplete)]


def complete_models(incomplete: str) -> list[str]:
    """Names of released models, and the run directories below `runs`."""
    from ulzoo.registry import releases

    runs = [str(path.parent) for path in sorted(Path("runs").glob("*/model.safetensors"))]
    return [name for name in (*releases(), *runs) if name.startswith(incomplete)]
