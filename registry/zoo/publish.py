"""Publishing a model on the Hugging Face hub, in one commit, for `ulzoo.registry.zoo.hub` to load."""

import hashlib
import json
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
from ulzoo.registry.zoo.hub import MANIFEST, SPEC, Address, api, hub_errors
from ulzoo.registry.zoo.release import ReleaseManifest, describe
from ulzoo.version import __version__

WEIGHTS, README, CONFIG = "model.safetensors", "README.md", "config.json"
MODEL_TYPE = "unified_latents"
WEIGHT_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
NO_LICENSE = "unknown"


@dataclass(frozen=True)
class PushResult:
    """A published model.

    Attributes:
        address: with the commit as its revision, so that it always refers to these files.
        files: the names of the uploaded files.
        has_metrics: whether the manifest contains metrics.
    """

    address: Address
    files: tuple[str, ...]
    has_metrics: bool


def push(
    source: str | os.PathLike[str], address: Address, license: str = "", private: bool = False, message: str = ""
) -> PushResult:
    """Publish a model. Weights of an earlier model in the repository are deleted; its other files are kept.

    Args:
        source: a run directory or an exported file.
        address: the repository, created if necessary; its revision is a branch, created if necessary, None for `main`.
        license: of the weights, as the hub names it, such as "apache-2.0"; "" if unspecified.
        private: create a private repository, and refuse to push to a public one.
        message: the commit message.

    Raises:
        ValueError: there is no model to publish, or the hub refuses it or cannot be reached.
    """
    files = repository_files(trained_file(source), str(address), license)
    manifest = files.manifest
    commit = _commit(address, files.contents, private, message or f"{manifest.name}, by ulzoo {__version__}")
    return PushResult(Address(address.repo, commit), tuple(files.contents), bool(manifest.figures))


@dataclass(frozen=True)
class RepositoryFiles:
    """The files of a repository on the hub.

    Attributes:
        contents: name -> a file's path or its content.
        manifest: pins the weights and the spec.
    """

    contents: dict[str, Path | str]
    manifest: ReleaseManifest


def repository_files(path: Path, address: str, license: str = "") -> RepositoryFiles:
    """The files of a repository for an exported model, which is loaded first, so that nothing damaged is published.

    Args:
        path: the export, or the index of its parts.
        address: what the model card loads the model by.
        license: see `push`.

    Raises:
        ValueError: the model cannot be loaded.
    """
    model = load_export(path)
    parts = files_of(path)
    weights = {file.name: file for file in parts} if len(parts) > 1 else {WEIGHTS: path}  # an index names its parts
    spec = model.spec.to_yaml()
    manifest = ReleaseManifest(
        **describe(model),
        sha256={name: sha256(file) for name, file in weights.items()}
        | {SPEC: hashlib.sha256(spec.encode()).hexdigest()},
        license=license or NO_LICENSE,
    )
    config = {"library_name": "ulzoo", "model_type": MODEL_TYPE, "ulzoo_version": __version__}
    texts = {
        SPEC: spec,
        CONFIG: json.dumps(config | {"spec": model.spec.to_dict()}, indent=1) + "\n",
        MANIFEST: manifest.to_yaml(),
        README: model_card(manifest, model.spec, address),
    }
    return RepositoryFiles({**weights, **texts}, manifest)


def _commit(address: Address, files: dict[str, Path | str], private: bool, message: str) -> str:
    """Commit all files at once and return the hash of the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def encoded(content: Path | str) -> Path | bytes:
        return content.encode() if isinstance(content, str) else content

    hub, repo, branch = api(), address.repo, address.revision
    with hub_errors(address):
        hub.create_repo(repo, private=private or None, exist_ok=True)
        if private and not hub.model_info(repo).private:
            raise ValueError(f"{address}: the repository is public and stays so with --private; nothing was uploaded")
        if branch:
            hub.create_branch(repo, branch=branch, exist_ok=True)
        existing = [entry.rfilename for entry in hub.model_info(repo, revision=branch).siblings or ()]
        obsolete = [name for name in existing if WEIGHT_FILES.fullmatch(name) and name not in files]
        operations = [
            *(CommitOperationAdd(name, encoded(content)) for name, content in files.items()),
            *(CommitOperationDelete(name) for name in obsolete),
        ]
        return hub.create_commit(repo, operations, commit_message=message, revision=branch).oid


PAPER = "https://arxiv.org/abs/2602.17270"
TAGS = ["ulzoo", "unified-latents", "diffusion"]
UNITS = {  # suffix of a metric's name -> its unit
    "psnr_db": "dB",
    "bits_per_pixel": "bits/pixel, an upper bound",
    "bits_per_dimension": "bits per latent dimension, an upper bound",
}


def model_card(manifest: ReleaseManifest, spec: Spec, address: str) -> str:
    """The README of the repository: Markdown with YAML metadata at the top."""
    metadata: dict[str, Any] = {"library_name": "ulzoo", "license": manifest.license.lower(), "tags": TAGS}
    return f"---\n{dump_yaml(metadata)}---\n\n" + "\n\n".join(_sections(manifest, spec, address)) + "\n"


def _sections(manifest: ReleaseManifest, spec: Spec, address: str) -> Iterator[str]:
    yield f"# {manifest.name}"
    if spec.description:
        yield spec.description
    yield f"A [Unified Latents]({PAPER}) model trained with ulzoo. `spec.yaml` defines it completely."
    yield f'```python\nimport ulzoo\n\nmodel = ulzoo.load("{address}")\nx = model.sample(4)\n```'
    if manifest.init:
        source, digest = manifest.init["model"], manifest.init["sha256"]
        yield f"Training started from the weights of `{source}`, SHA-256 `{digest}`."
    yield f"`ulzoo train {address} --dry-run` prints what it costs to train it again."
    if manifest.figures:
        yield "## Metrics"
        yield "\n".join(["| metric | value | unit |", "|---|---|---|", *_metric_rows(manifest)])
        yield f"How they were measured:\n\n```yaml\n{dump_yaml(manifest.protocol)}```"
    yield "## Files"
    yield "\n".join(f"- `{name}`, SHA-256 `{digest}`" for name, digest in manifest.sha256.items())


def _metric_rows(manifest: ReleaseManifest) -> Iterator[str]:
    """A row for every metric that is a single number."""
    for name, value in manifest.figures.items():
        if not isinstance(value, list):
            unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
            yield f"| {name} | {value:.4g} | {unit} |"
