"""A local stand-in for the hub: the parts of its HTTP interface that huggingface_hub uses."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.export import save_export

TOKEN = "hf_secretsecretsecret"
FIGURES = {"psnr_db": 21.25, "bits_per_pixel": 0.5, "psnr_by_frame_db": [20.0, 22.5]}
PROTOCOL = {"data": {"kind": "image_folder", "resolution": 16}, "split": "val", "images": 6}


@dataclass
class Repository:
    """Commits, and the branches and tags that refer to them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files to the branch; None deletes a file."""
        merged = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        kept = {name: content for name, content in merged.items() if content is not None}
        digest = hashlib.sha1(repr((branch, sorted(kept.items()), len(self.commits))).encode()).hexdigest()
        self.commits[digest] = kept
        self.refs[branch] = digest
        return digest

    def at(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: by name.
        large: content by SHA-256, stored and served separately with redirects, as the hub does with weights.
        requests: method, path and headers (names in lower case) of all requests.
        cut: number of bytes sent before the connection breaks, for each of the next responses with weights.
        down: answer 503 to everything.
        echo: text of error responses.
        token: grants write access, and read access to private repositories.
    """

    token = TOKEN

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.cut: list[int] = []
        self.down = False
        self.echo = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def storage(self) -> str:
        """URL of large files: another host, as on the hub, which must not receive the token."""
        return self.url.replace("127.0.0.1", "localhost")

    def sent(self, method: str) -> list[str]:
        return [path for name, path, _ in self.requests if name == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def __getattr__(self, name: str):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if self.server.down:
            return self.reply(503)
        for pattern, act in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return act(self, *match.groups())
        return self.reply(404)

    def reply(self, status: int, content: object = None, code: str = "", **headers: str) -> None:
        if code:
            headers |= {"X-Error-Code": code, "X-Error-Message": code}
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # --- permissions

    def repository(self, name: str, write: bool = False) -> Repository | None:
        """The repository, if it exists and the caller has access; otherwise an error response is sent."""
        authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not authorized):
            self.reply(401 if not authorized else 404, code="RepoNotFound")
            return None
        if write and not authorized:
            self.reply(403, {"error": f"{self.server.echo} {self.headers.get('Authorization')}"})
            return None
        return repository

    def commit_of(self, name: str, revision: str) -> tuple[Repository, str] | None:
        if (repository := self.repository(name)) is None:
            return None
        if (commit := repository.at(revision)) is None:
            self.reply(404, code="RevisionNotFound")
            return None
        return repository, commit

    # --- reading

    def info(self, name: str, revision: str | None = None) -> None:
        if resolved := self.commit_of(name, revision or "main"):
            repository, commit = resolved
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            self.reply(200, {"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    def resolve(self, name: str, revision: str, file: str) -> None:
        if (resolved := self.commit_of(name, revision)) is None:
            return
        repository, commit = resolved
        content = repository.commits[commit].get(file)
        if content is None:
            self.reply(404, code="EntryNotFound", X_Repo_Commit=commit)
        elif file.endswith(".safetensors"):
            oid = content.decode()
            size = str(len(self.server.large[oid]))
            self.reply(
                302,
                Location=f"{self.server.storage}/large/{oid}?X-Amz-Signature=signed",
                X_Linked_Etag=f'"{oid}"',
                X_Linked_Size=size,
                X_Repo_Commit=commit,
            )
        else:
            self.reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)

    def read_large(self, oid: str) -> None:
        content = self.server.large[oid]
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(begin[1]) if begin else 0
        part = content[start:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        cut = self.server.cut.pop(0) if self.server.cut else len(part)
        self.wfile.write(part[:cut])
        if cut < len(part):
            self.close_connection = True

    # --- writing

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, {"error": f"{self.server.echo} {self.headers.get('Authorization')}"})
        if name in self.server.repositories:
            return self.reply(409, {"url": f"{self.server.url}/{name}"})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private=bool(private))
        self.server.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs"})
        self.reply(200, {"url": f"{self.server.url}/{name}"})

    def branch(self, name: str, branch: str) -> None:
        if repository := self.repository(name, write=True):
            if branch in repository.refs:
                return self.reply(409, {"error": "exists"})
            repository.refs[branch] = repository.refs["main"]
            self.reply(200)

    def preupload(self, name: str, _: str) -> None:
        if self.repository(name, write=True):
            asked = [file["path"] for file in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in asked}
            self.reply(
                200, {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in asked]}
            )

    def batch(self, name: str) -> None:
        if self.repository(name, write=True):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.server.storage}/large/{entry['oid']}"}}}
                for entry in json.loads(self.body)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects})

    def write_large(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        self.reply(200)

    def commit(self, name: str, branch: str) -> None:
        if (repository := self.repository(name, write=True)) is None:
            return
        files: dict = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = value["oid"].encode()
                case "deletedFile":
                    files[value["path"]] = None
        commit = repository.commit(files, branch)
        self.reply(200, {"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    def valid(self) -> None:
        self.reply(200, {"errors": [], "warnings": []})


REPO = "([^/]+/[^/]+)"
ROUTES = [
    (rf"GET /api/models/{REPO}", Handler.info),
    (rf"GET /api/models/{REPO}/revision/(.+)", Handler.info),
    (rf"(?:GET|HEAD) /{REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
    (r"GET /large/(\w+)", Handler.read_large),
    (r"POST /api/repos/create", Handler.create),
    (rf"POST /api/models/{REPO}/branch/(.+)", Handler.branch),
    (rf"POST /api/models/{REPO}/preupload/(.+)", Handler.preupload),
    (rf"POST /{REPO}.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /large/(\w+)", Handler.write_large),
    (rf"POST /api/models/{REPO}/commit/(.+)", Handler.commit),
    (r"POST /api/validate-yaml", Handler.valid),
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in as the endpoint of huggingface_hub, with an empty cache in `tmp_path/cache` and a token."""
    server = Hub()
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,  # a protocol that the stand-in does not implement
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def export(tiny, tmp_path_factory) -> Path:
    """The export of a small model, with metrics."""
    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    save_export(path, compile_model(tiny()), tiny(), {"figures": FIGURES, "protocol": PROTOCOL})
    return path
