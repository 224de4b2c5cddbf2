"""Figures and their protocol, wherever they were written."""

import json
import os
from pathlib import Path
from typing import Any

from ulzoo.files import tensor_file as tensorfile
from ulzoo.registry.zoo import hub
from ulzoo.registry.zoo.catalogue import cards


def open_results(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """{"figures", "protocol"} of a released model, an exported file, a run directory, or a JSON file of `evaluate`.

    Of a model on the hub, `hf://org/repo`, they are its card's.

    Raises:
        ValueError: none of these, or one without figures.
    """
    name = os.fspath(name_or_path)
    path = Path(name)
    if hub.is_address(name):
        card = hub.find(name).card
        return {"figures": card.figures, "protocol": card.protocol}
    if (card := cards().get(name)) and not path.exists():
        return {"figures": card.figures, "protocol": card.protocol}
    if path.is_dir():
        path = path / "figures.json"
        if not path.exists():
            raise ValueError(f"{name}: holds no figures.json; its training has not ended, or it is no run directory")
    if not path.exists():
        raise ValueError(f"{name}: neither a released model nor a file or run directory")
    if path.suffix == ".json":
        try:
            results = json.loads(path.read_text("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
    else:
        results = tensorfile.read_metadata(path)["results"]
    if not isinstance(results, dict) or not {"figures", "protocol"} <= results.keys():
        raise ValueError(f"{name}: has no figures with their protocol; `ulzoo evaluate {name} --out FILE.json` has")
    return results
