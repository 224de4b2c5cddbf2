"""Publishing a model on the Hugging Face hub: what `ulzoo.registry.zoo.hub` finds there, in one commit."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulzoo.files.atomic import sha256
from ulzoo.files.tensor_file import files_of
from ulzoo.registry.runs.export import load_export
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.yaml_source import dump_yaml
from ulzoo.registry.zoo.catalogue import trained_file
from ulzoo.registry.zoo.hub import CARD, SPEC, Address, api, in_words
from ulzoo.registry.zoo.release import ReleaseManifest
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
    card = ReleaseManifest(
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


PAPER = "https://arxiv.org/abs/2602.17270"
TAGS = ["ulzoo", "unified-latents", "diffusion"]
UNITS = {  # end of a figure's name -> its unit
    "psnr_db": "dB",
    "bits_per_pixel": "bits/pixel, an upper bound",
    "bits_per_dimension": "bits per latent dimension, an upper bound",
}


def page(card: ReleaseManifest, spec: Spec, address: Address) -> str:
    """Markdown with YAML before it."""
    metadata: dict[str, Any] = {"library_name": "ulzoo", "license": card.license.lower(), "tags": TAGS}
    return f"---\n{dump_yaml(metadata)}---\n\n" + "\n\n".join(_parts(card, spec, address)) + "\n"


def _parts(card: ReleaseManifest, spec: Spec, address: Address) -> Iterator[str]:
    yield f"# {card.name}"
    if spec.description:
        yield spec.description
    yield f"A model of [Unified Latents]({PAPER}), made with ulzoo; `spec.yaml` is the whole of it."
    yield f'```python\nimport ulzoo\n\nmodel = ulzoo.load("{address}")\nx = model.sample(4)\n```'
    yield f"`ulzoo train {address} --dry-run` says what training it again costs."
    if card.figures:
        yield "## Figures"
        yield "\n".join(["| figure | value | unit |", "|---|---|---|", *_figures(card)])
        yield f"How they were measured:\n\n```yaml\n{dump_yaml(card.protocol)}```"
    yield "## Files"
    yield "\n".join(f"- `{name}`, SHA-256 `{digest}`" for name, digest in card.sha256.items())


def _figures(card: ReleaseManifest) -> Iterator[str]:
    """A row each, but for those that are lists."""
    for name, value in card.figures.items():
        if not isinstance(value, list):
            unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
            yield f"| {name} | {value:.4g} | {unit} |"
