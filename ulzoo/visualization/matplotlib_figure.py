"""Figures of matplotlib that are only ever written to files, whatever backend the environment names."""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_matplotlib() -> None:
    """Import matplotlib, without a backend: files need none, and one that does not exist would end the import.

    Raises:
        ValueError: matplotlib is not installed, or cannot be imported.
    """
    if not find_spec("matplotlib"):
        raise ValueError("plots need the package matplotlib: pip install 'ulzoo[plots]'")
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ValueError(f"plots need matplotlib, which cannot be imported: {error}") from None
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def new_figure(**options: Any) -> "Figure":
    """An empty figure, with the arguments of matplotlib's `Figure`; it belongs to no window."""
    check_matplotlib()
    from matplotlib.figure import Figure

    return Figure(**options)
