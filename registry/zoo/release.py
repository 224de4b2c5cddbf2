"""The card of a model whose weights are published: what it is, what it measured, and the SHA-256 of its files."""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ulzoo.files.atomic import sha256
from ulzoo.registry.spec.errors import validated
from ulzoo.registry.spec.yaml_source import dump_yaml, read_yaml

FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ReleaseManifest(BaseModel):
    """A card: `registry/zoo/releases/NAME.yaml` of a released model, `ulzoo.yaml` in a repository on the hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="name of the model and of its spec")
    sha256: dict[str, str] = Field(min_length=1, description="file beside the card -> its SHA-256, the weights first")
    license: str = Field(description="of the weights")
    data: str = Field(default="", description="what it was trained on, and whose work that is")
    command: str = Field(default="", description="the command that trained it")
    trained: str = Field(default="", description="on what machine, for how long")
    figures: dict[str, float | list[float]] = Field(description="measured on validation data; {} if nothing was")
    protocol: dict[str, Any] = Field(description="how they were measured")
    notes: str = Field(default="", description="what to expect of it")

    @field_validator("sha256")
    @classmethod
    def _plain(cls, hashes: dict[str, str]) -> dict[str, str]:
        for name, digest in hashes.items():
            if not FILE.fullmatch(name):
                raise ValueError(f"{name!r} is not the plain name of a file")
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"{name}: a SHA-256 is 64 hexadecimal digits")
        return hashes

    @property
    def weights(self) -> str:
        """The file that `load` is given; if there are more of them, it leads to the others."""
        return next(iter(self.sha256))

    def check(self, name: str, path: Path, advice: str) -> None:
        """Compare `name`, which lies at `path`, with the card. ValueError, ending in `advice`, if it differs."""
        found = sha256(path)
        if found != self.sha256[name]:
            raise ValueError(f"{path}: SHA-256 is {found[:12]}…, its card says {self.sha256[name][:12]}…; {advice}")

    def to_yaml(self) -> str:
        """As `read_manifest` reads it; what is empty is left out."""
        keys = self.model_dump(mode="json")
        return dump_yaml({key: value for key, value in keys.items() if value != ""})


def read_manifest(path: Path, shown: str) -> ReleaseManifest:
    """The card in a YAML file, which is called `shown` in errors. SpecError for whatever is wrong with it."""
    source = read_yaml(path, shown)
    return validated(ReleaseManifest, source.plain(), source)
