"""Models on the Hugging Face hub, addressed by `hf://org/repo@revision`; a revision is a commit, a tag or a branch.

A repository contains the release manifest `ulzoo.yaml`, which pins the other files by SHA-256: `model.safetensors` (or
its parts and their index) and `spec.yaml`; and the model card, `README.md`. Files are downloaded through the cache of
huggingface_hub, which fetches each file once, resumes interrupted downloads, and works offline with `HF_HUB_OFFLINE=1`.
Nothing in a repository is executed, and no message contains a signed URL or a token.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ulzoo.files.retries import NoAnswer, hub_retries
from ulzoo.registry.spec.yaml_source import Node, read_yaml
from ulzoo.registry.zoo.release import ReleaseManifest, read_manifest
from ulzoo.runtime.messages import one_line
from ulzoo.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
MANIFEST, SPEC = "ulzoo.yaml", "spec.yaml"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@({_NAME}(?:/{_NAME})*))?")


class Address(NamedTuple):
    """The address of a model on the hub.

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
        """Parse `hf://ORG/REPO` or `hf://ORG/REPO@REVISION`. Raises ValueError if `text` is neither."""
        match = _ADDRESS.fullmatch(text)
        if match is None or ".." in text:
            raise ValueError(f"{one_line(text)}: an address on the hub is hf://ORG/REPO or hf://ORG/REPO@REVISION")
        return cls(match[1], match[2])


def is_address(text: str) -> bool:
    """Whether `text` denotes a model on the hub."""
    return text.startswith(SCHEME)


@dataclass(frozen=True)
class HubModel:
    """A model on the hub. Weights and spec are downloaded on demand.

    Attributes:
        address: as given by the user.
        commit: the commit that the revision referred to; all files are of this commit.
        manifest: the release manifest of that commit.
    """

    address: Address
    commit: str
    manifest: ReleaseManifest

    def weights(self) -> Path:
        """Download and verify all files of the weights, and return the one to load.

        Raises:
            ValueError: a file is missing, or differs from the manifest.
        """
        paths = {name: self._fetch(name) for name in self.manifest.sha256 if name != SPEC}
        return paths[self.manifest.weights]

    def spec(self) -> Node:
        """Download and verify the resolved spec.

        Raises:
            ValueError: it is missing, or differs from the manifest.
        """
        if SPEC not in self.manifest.sha256:
            raise ValueError(f"{self.address}: its {MANIFEST} does not list {SPEC}")
        return read_yaml(self._fetch(SPEC), f"{self.address}: {SPEC}")

    def _fetch(self, name: str) -> Path:
        path = fetch(self.address, name, self.commit)
        remedy = f"if the download is damaged, remove it and try again; else {self.address} itself is inconsistent"
        self.manifest.verify(name, path, remedy)
        return path


def find_model(text: str) -> HubModel:
    """The model at an address.

    Raises:
        ValueError: `text` is no address, there is no such repository or revision or it has no release manifest, or the
            hub cannot be reached and the files are not in the cache.
    """
    address = Address.parse(text)
    path = fetch(address, MANIFEST, address.revision)
    commit = path.parent.name  # the cache has one folder per commit, named after it
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ValueError(f"{address}: the hub did not report a commit")
    return HubModel(address, commit, read_manifest(path, f"{address}: {MANIFEST}"))


def fetch(address: Address, name: str, revision: str | None) -> Path:
    """Download a file of the repository to the cache, unverified. Raises ValueError like `find_model`."""
    with hub_errors(address, name):
        return Path(api().hf_hub_download(address.repo, name, revision=revision))


def api() -> "HfApi":
    """The client of the hub, configured by `HF_ENDPOINT`, `HF_TOKEN` and the like."""
    from huggingface_hub import HfApi

    return HfApi(library_name="ulzoo", library_version=__version__)


@contextmanager
def hub_errors(address: Address, name: str = "") -> Iterator[None]:
    """Convert errors of huggingface_hub to a ValueError of one line, and its log messages to lines without URLs.

    Args:
        name: the file that is downloaded, if any.
    """
    from huggingface_hub import constants, errors

    try:
        with hub_retries(str(address)):
            yield
    except errors.RepositoryNotFoundError:
        reason = "there is no such repository, or it is private or gated and your token (`hf auth login`) has no access"
        raise ValueError(f"{address}: {reason}") from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{address}: the repository has no revision {address.revision or 'main'!r}") from None
    except errors.RemoteEntryNotFoundError:
        reason = "so it is no model of ulzoo" if name == MANIFEST else f"which its {MANIFEST} lists"
        raise ValueError(f"{address}: the repository has no {name}, {reason}") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, NoAnswer):
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise ValueError(f"{address}: {reason}" + (f", and {name} is not in the cache" if name else "")) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reason = "your token has no permission (`hf auth login`)" if status in (401, 403) else f"status {status}"
        details = f": {_without_token(error.server_message)}" if error.server_message else ""
        raise ValueError(f"{address}: the hub refused the request: {reason}{details}") from None
    except (errors.HTTPError, errors.FileMetadataError, ConnectionError, TimeoutError, RuntimeError) as error:
        cause = type(error.__cause__ or error).__name__  # uploads wrap the original error
        raise ValueError(f"{address}: the connection to the hub failed ({cause}); try again") from None


def _without_token(text: str) -> str:
    """`text` in one line, without the user's token, which a server may echo."""
    from huggingface_hub import get_token

    token = get_token()
    return one_line(" ".join((text.replace(token, "…") if token else text).split()))[:300]
