"""The release manifest of published weights: origin, license, metrics, and the SHA-256 of the files."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ulzoo.files.atomic import sha256
from ulzoo.registry.spec.errors import validated
from ulzoo.registry.spec.yaml_source import dump_yaml, read_yaml

if TYPE_CHECKING:
    from ulzoo.registry.runs.export import Export

FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ReleaseManifest(BaseModel):
    """The content of `registry/zoo/releases/NAME.yaml`, and of `ulzoo.yaml` in a repository on the hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="name of the model and of its spec")
    sha256: dict[str, str] = Field(min_length=1, description="file name -> SHA-256, the weights first")
    license: str = Field(description="of the weights")
    data: str = Field(default="", description="the training data and its authors")
    command: str = Field(default="", description="the command that trained it")
    trained: str = Field(default="", description="machine and duration of the training")
    init: dict[str, str] | None = Field(
        default=None, description="the model that training started from, with the SHA-256 of its weights: model, sha256"
    )
    figures: dict[str, float | list[float]] = Field(description="metrics on validation data; {} if not measured")
    protocol: dict[str, Any] = Field(description="how the metrics were measured")
    latent_statistics: dict[str, list[float]] | None = Field(
        default=None, description="mean and std of the encoder's latents by channel, on validation data"
    )
    codec: dict[str, Any] | None = Field(default=None, description="of `ulzoo compress`, measured on training data")
    notes: str = Field(default="", description="remarks for users")

    @field_validator("sha256")
    @classmethod
    def _check_files(cls, hashes: dict[str, str]) -> dict[str, str]:
        for name, digest in hashes.items():
            if not FILE.fullmatch(name):
                raise ValueError(f"{name!r} is not a plain file name")
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"{name}: a SHA-256 has 64 hexadecimal digits")
        return hashes

    @property
    def weights(self) -> str:
        """The name of the file to load; for weights in several parts, their index."""
        return next(iter(self.sha256))

    def verify(self, name: str, path: Path, remedy: str) -> None:
        """Raise ValueError, with `remedy` at its end, unless the file at `path` has the SHA-256 of `name`."""
        digest, expected = sha256(path), self.sha256[name]
        if digest != expected:
            raise ValueError(f"{path}: SHA-256 is {digest[:12]}…, but {expected[:12]}… in its manifest; {remedy}")

    def to_yaml(self) -> str:
        """As YAML for `read_manifest`, without empty fields."""
        keys = self.model_dump(mode="json")
        return dump_yaml({key: value for key, value in keys.items() if value not in ("", None)})


def describe(export: "Export") -> dict[str, Any]:
    """The fields of a manifest that an export knows of itself."""
    init, statistics = export.spec.init, export.model.latent_statistics
    return {
        "name": export.spec.name,
        "init": {"model": init.model, "sha256": init.sha256 or ""} if init else None,
        "figures": export.results.get("figures", {}),
        "protocol": export.results.get("protocol", {}),
        "latent_statistics": None if statistics is None else statistics.to_dict(),
    }


def read_manifest(path: Path, shown: str) -> ReleaseManifest:
    """Read a manifest.

    Args:
        shown: the name of the file in error messages.

    Raises:
        SpecError: the file cannot be read, or is not a valid manifest.
    """
    source = read_yaml(path, shown)
    return validated(ReleaseManifest, source.plain(), source)
