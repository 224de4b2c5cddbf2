"""Models on the Hugging Face hub, by the address `hf://org/repo@revision`; a revision is a commit, a tag or a branch.

A repository holds `ulzoo.yaml`, the card, which pins the other files by their SHA-256: `model.safetensors` (or its
parts and their index), `spec.yaml`, and `README.md` for people. Files go through the cache of huggingface_hub, which
fetches each once, goes on where a connection broke and, with `HF_HUB_OFFLINE=1`, does without the hub. Nothing of them
is ever executed, and no message holds an address with a signature or a token.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ulzoo.files.atomic import one_line
from ulzoo.registry.spec.yaml_source import Node, read_yaml
from ulzoo.registry.zoo.release import ReleaseManifest, read_manifest
from ulzoo.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
CARD, SPEC = "ulzoo.yaml", "spec.yaml"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@({_NAME}(?:/{_NAME})*))?")


class Address(NamedTuple):
    """Where a model is on the hub.

    Attributes:
        repo: "org/repo".
        revision: a commit, tag or branch; None for the branch `main`.
    """

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @classmethod
    def parse(cls, text: str) -> "Address":
        """ValueError if `text` is no address."""
        match = _ADDRESS.fullmatch(text)
        if match is None or ".." in text:
            raise ValueError(f"{one_line(text)}: an address on the hub is hf://ORG/REPO or hf://ORG/REPO@REVISION")
        return cls(match[1], match[2])


def is_address(text: str) -> bool:
    """Whether a user who writes this means the hub."""
    return text.startswith(SCHEME)


@dataclass(frozen=True)
class Published:
    """A model on the hub, of which only the card was fetched yet.

    Attributes:
        address: as it was asked for.
        commit: what its revision was then: all files are of this commit.
    """

    address: Address
    commit: str
    card: ReleaseManifest

    def weights(self) -> Path:
        """All files of the weights, fetched and checked; the one to load.

        Raises:
            ValueError: a file is not there, or not what the card says.
        """
        paths = {name: self._fetch(name) for name in self.card.sha256 if name != SPEC}
        return paths[self.card.weights]

    def spec(self) -> Node:
        """The resolved spec, fetched and checked. ValueError as `weights`."""
        if SPEC not in self.card.sha256:
            raise ValueError(f"{self.address}: its card names no {SPEC}")
        return read_yaml(self._fetch(SPEC), f"{self.address}: {SPEC}")

    def _fetch(self, name: str) -> Path:
        path = fetch(self.address, name, self.commit)
        self.card.check(name, path, f"if it is damaged, remove it and try again; {self.address} may be at fault too")
        return path


def find(text: str) -> Published:
    """The model at an address.

    Raises:
        ValueError: no address, no such repository or revision, no model of ulzoo's in it, or the hub is out of reach
            and the cache does not have it.
    """
    address = Address.parse(text)
    path = fetch(address, CARD, address.revision)
    commit = path.parent.name  # the cache keeps the files of a commit in a folder of that name
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ValueError(f"{address}: the hub names no commit")
    return Published(address, commit, read_manifest(path, f"{address}: {CARD}"))


def fetch(address: Address, name: str, revision: str | None) -> Path:
    """A file of the repository, in the cache; not checked. ValueError as `find`."""
    with in_words(address, name):
        return Path(api().hf_hub_download(address.repo, name, revision=revision))


def api() -> "HfApi":
    """The client of the hub, which `HF_ENDPOINT`, `HF_TOKEN` and their like set up."""
    from huggingface_hub import HfApi

    return HfApi(library_name="ulzoo", library_version=__version__)


@contextmanager
def in_words(address: Address, name: str = "") -> Iterator[None]:
    """What goes wrong between us and the hub as a ValueError in one line, and nothing else said."""
    from huggingface_hub import constants, errors

    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)  # its warnings quote addresses and headers of the answer
    try:
        yield
    except errors.RepositoryNotFoundError:
        what = (
            "there is no such repository, or it is private or gated and your token (`hf auth login`) does not open it"
        )
        raise ValueError(f"{address}: {what}") from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{address}: the repository has no revision {address.revision or 'main'!r}") from None
    except errors.RemoteEntryNotFoundError:
        what = "not a model of ulzoo's" if name == CARD else "though its card names it"
        raise ValueError(f"{address}: there is no {name} in it, {what}") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise ValueError(f"{address}: {why}" + (f", and {name} is not in the cache" if name else "")) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        told = "your token may not do this (`hf auth login`)" if status in (401, 403) else f"status {status}"
        said = f": {_without_token(error.server_message)}" if error.server_message else ""
        raise ValueError(f"{address}: the hub refuses: {told}{said}") from None
    except (errors.HTTPError, errors.FileMetadataError, ConnectionError, TimeoutError, RuntimeError) as error:
        reason = type(error.__cause__ or error).__name__  # uploads wrap what went wrong
        raise ValueError(f"{address}: the connection to the hub failed ({reason}); try again") from None
    finally:
        log.setLevel(level)


def _without_token(text: str) -> str:
    """In one line, and without what a server may have sent back to us."""
    from huggingface_hub import get_token

    token = get_token()
    return one_line(" ".join((text.replace(token, "…") if token else text).split()))[:300]
