"""Folders and repositories of models by huggingface_hub's conventions: `config.json` beside `model.safetensors`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ulzoo.files.atomic import write_text
from ulzoo.registry.zoo.catalogue import load
from ulzoo.registry.zoo.hub import MANIFEST, SCHEME, Address
from ulzoo.registry.zoo.publish import README, WEIGHTS, push, repository_files

if TYPE_CHECKING:
    import torch

    from ulzoo.model.pretrained import Dtype
    from ulzoo.model.unified_latents import UnifiedLatents
    from ulzoo.registry.spec.schema import Spec

REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")
"""org/repo; a path begins with a dot or a slash, or exists."""


def save_pretrained(model: "UnifiedLatents", folder: str | os.PathLike[str], *, dtype: "Dtype | None" = None) -> None:
    """Write what `push_to_hub` uploads to a folder, created if necessary. A model card that exists is kept.

    Args:
        dtype: of the stored weights; that of the model if None.

    Raises:
        ValueError: the folder contains such files of another origin, a weight is not finite in `dtype`, or the model
            was not compiled from a spec.
    """
    from ulzoo.registry.runs.export import save_export

    folder = Path(folder)
    _check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_export(folder / WEIGHTS, model, _spec(model), {}, dtype or _dtype_of(model))
    for name, content in repository_files(folder / WEIGHTS, folder.name).contents.items():
        if isinstance(content, str) and not (name == README and (folder / README).exists()):
            write_text(folder / name, content)


def from_pretrained(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: "torch.device | str" = "cpu",
    dtype: "torch.dtype | None" = None,
) -> "UnifiedLatents":
    """Load a trained model like `load`, which also takes "org/repo" on the hub here.

    Args:
        revision: commit, tag or branch on the hub.
        dtype: of the weights; float32 if None.
    """
    name = os.fspath(name_or_path)
    if not name.startswith(SCHEME) and REPOSITORY.fullmatch(name) and not os.path.exists(name):
        name = f"{SCHEME}{name}"
    if revision is not None:
        if not name.startswith(SCHEME) or Address.parse(name).revision:
            raise ValueError(f"{name}: a revision belongs to an address on the hub that names none, got {revision!r}")
        name = f"{name}@{revision}"
    model = load(name if name.startswith(SCHEME) else name_or_path, device)
    return model if dtype is None else model.to(dtype)


def push_to_hub(
    model: "UnifiedLatents",
    repo_id: str,
    *,
    revision: str | None = None,
    license: str = "",
    private: bool = False,
    commit_message: str = "",
) -> str:
    """Publish a model, and return its address with the commit; arguments and errors as of `publish.push`."""
    from ulzoo.registry.runs.export import save_export

    address = Address.parse(repo_id if repo_id.startswith(SCHEME) else f"{SCHEME}{repo_id}")
    with TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save_export(path, model, _spec(model), {}, _dtype_of(model))
        target = address._replace(revision=revision or address.revision)
        return str(push(path, target, license, private, commit_message).address)


def _spec(model: "UnifiedLatents") -> "Spec":
    if not hasattr(model, "config"):
        raise ValueError("this model was not compiled from a spec, which its files would contain")
    return model.config


def _dtype_of(model: "UnifiedLatents") -> "Dtype":
    """The one dtype of the weights. Raises ValueError if there are several, or it is none that is stored."""
    names: Mapping[str, Dtype] = {f"torch.{name}": name for name in ("float32", "float16", "bfloat16")}
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    if len(dtypes) > 1 or dtypes[0] not in names:
        raise ValueError(f"the weights are {' and '.join(dtypes)}: give `dtype`, float32, float16 or bfloat16")
    return names[dtypes[0]]


def _check_folder(folder: Path) -> None:
    """Raise ValueError if writing would replace files that are not of `save_pretrained`."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, not a folder")
    others = [name for name in (WEIGHTS, "spec.yaml", "config.json") if (folder / name).exists()]
    if others and not (folder / MANIFEST).exists():
        raise ValueError(f"{folder}: contains {others[0]}, which save_pretrained did not write; give another folder")
