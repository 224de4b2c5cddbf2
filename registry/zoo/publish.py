"""Publishing a model on the Hugging Face hub: what `ulzoo.registry.zoo.hub` finds there, in one commit."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ulzoo.files.atomic import sha256
from ulzoo.files.tensor_file import files_of
from ulzoo.registry.runs.export import load_export
from ulzoo.registry.zoo.catalogue import trained_file
from ulzoo.registry.zoo.hub import CARD, SPEC, Address, api, in_words
from ulzoo.registry.zoo.page import page
from ulzoo.registry.zoo.release import Card
from ulzoo.version import __version__

WEIGHTS, README = "model.safetensors", "README.md"
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
NO_LICENSE = "unknown"


@dataclass(frozen=True)
class Pushed:
    """What was published.

    Attributes:
        address: with the commit, so that it means these files for ever.
        files: their names.
        measured: whether figures went with it.
    """

    address: Address
    files: tuple[str, ...]
    measured: bool


def push(
    source: str | os.PathLike[str], address: Address, license: str = "", private: bool = False, message: str = ""
) -> Pushed:
    """Publish a model. Weights that the repository has and the model has not go; its other files stay.

    Args:
        source: a run directory or an exported file.
        address: the repository, made if need be; its revision is a branch, made if need be, None being `main`.
        license: of the weights, as the hub names it, such as "apache-2.0"; "" if that is open.
        private: nobody else is to see it: make the repository so, and refuse one that is public.
        message: of the commit.

    Raises:
        ValueError: nothing to publish, or the hub refuses it or is out of reach.
    """
    path = trained_file(source)
    model = load_export(path)  # what cannot be loaded is not published
    stored = files_of(path)
    weights = {file.name: file for file in stored} if len(stored) > 1 else {WEIGHTS: path}  # an index names its parts
    spec = model.spec.to_yaml().encode()
    card = Card(
        name=model.spec.name,
        sha256={name: sha256(file) for name, file in weights.items()} | {SPEC: hashlib.sha256(spec).hexdigest()},
        license=license or NO_LICENSE,
        figures=model.results.get("figures", {}),
        protocol=model.results.get("protocol", {}),
    )
    texts = {SPEC: spec, CARD: card.to_yaml().encode(), README: page(card, model.spec, address).encode()}
    files: dict[str, Path | bytes] = {**weights, **texts}
    commit = _commit(address, files, private, message or f"{card.name}, by ulzoo {__version__}")
    return Pushed(Address(address.repo, commit), tuple(files), bool(card.figures))


def _commit(address: Address, files: dict[str, Path | bytes], private: bool, message: str) -> str:
    """All files in one commit, whose hash is returned."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    hub, repo, branch = api(), address.repo, address.revision
    with in_words(address):
        hub.create_repo(repo, private=private or None, exist_ok=True)
        if private and not hub.model_info(repo).private:
            raise ValueError(f"{address}: the repository is public, which --private does not change; nothing was sent")
        if branch:
            hub.create_branch(repo, branch=branch, exist_ok=True)
        there = [entry.rfilename for entry in hub.model_info(repo, revision=branch).siblings or ()]
        gone = [name for name in there if OURS.fullmatch(name) and name not in files]
        operations = [
            *(CommitOperationAdd(name, content) for name, content in files.items()),
            *(CommitOperationDelete(name) for name in gone),
        ]
        return hub.create_commit(repo, operations, commit_message=message, revision=branch).oid
