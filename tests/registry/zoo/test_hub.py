"""Loading from the hub: models that exist, models that do not, and files that were altered."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

from ulzoo.cli import app
from ulzoo.files import tensor_file
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.export import save_export
from ulzoo.registry.runs.initialize import initialize, open_init
from ulzoo.registry.zoo.catalogue import create_model, load, load_spec, open_model, open_results
from ulzoo.registry.zoo.hub import Address, find_model
from ulzoo.registry.zoo.publish import push


@pytest.fixture
def published(hub, export):
    """The stand-in with a model in me/tiny, and an empty cache."""
    push(export, Address("me/tiny", None), license="mit")
    hub.requests.clear()
    return hub


def refusal(address: str = "hf://me/tiny") -> str:
    with pytest.raises(ValueError) as error:
        load(address)
    message = str(error.value)
    assert message.isprintable() and "hf_" not in message and "http" not in message
    return message


def alter(hub, name: str, change) -> None:
    """Commit the file `name` with `change` applied to its content."""
    repository = hub.repositories["me/tiny"]
    content = repository.commits[repository.refs["main"]][name]
    repository.commit({name: change(content)})


# --- a model that exists


def test_every_function_takes_an_address(published, export, tiny):
    model = create_model("hf://me/tiny", pretrained=True, overrides=["sample.base.steps=7"])
    assert model.contract.sampling["base"].steps == 7
    expected = load(export).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert load_spec("hf://me/tiny", ["encoder.width=64"]).encoder.width == 64
    written = tensor_file.read_metadata(export)["results"]
    assert open_results("hf://me/tiny") == written


def test_a_model_that_was_trained_from_another_one(published, tiny, tmp_path):
    """An address is the start of a training, and the manifest and the card of its result have the SHA-256."""
    spec, source = open_init(tiny("init={model: hf://me/tiny, freeze: [encoder]}"), open_model)
    model = compile_model(spec)
    assert initialize(model, spec, source).sha256 == spec.init.sha256 == source.weights_sha256
    save_export(tmp_path / "fine.safetensors", model, spec, {})
    push(tmp_path / "fine.safetensors", Address("me/fine", None))
    assert find_model("hf://me/fine").manifest.init == {"model": "hf://me/tiny", "sha256": source.weights_sha256}
    files = published.repositories["me/fine"].commits[published.repositories["me/fine"].refs["main"]]
    assert f"`hf://me/tiny`, SHA-256 `{source.weights_sha256}`" in files["README.md"].decode()
    assert find_model("hf://me/tiny").manifest.init is None
    published.requests.clear()
    assert load_spec("hf://me/fine").init == spec.init and load("hf://me/fine").contract.frozen == ("encoder",)
    assert not [path for _, path, _ in published.requests if "me/tiny" in path]  # only training opens it


def test_the_spec_is_loaded_without_the_weights(published):
    load_spec("hf://me/tiny")
    assert not [path for path in published.sent("GET") if "large" in path]


def test_only_files_of_the_manifest_are_fetched(published):
    """Not code, pickles or the model card."""
    alter(published, "README.md", lambda _: b"---\nauto_map: {AutoModel: modeling.Evil}\n---\n")
    published.repositories["me/tiny"].commit({"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x02."})
    load("hf://me/tiny")
    assert {path.rpartition("/")[2] for path in published.sent("HEAD")} == {"ulzoo.yaml", "model.safetensors"}


def test_nothing_is_fetched_twice(published):
    load("hf://me/tiny")
    published.requests.clear()
    load("hf://me/tiny")
    assert published.sent("GET") == [] and len(published.sent("HEAD")) == 1  # what main is now
    commit = published.repositories["me/tiny"].refs["main"]
    published.requests.clear()
    load(f"hf://me/tiny@{commit}")
    assert published.requests == []


def test_without_the_hub_from_the_cache(published, monkeypatch):
    load("hf://me/tiny")
    published.down = True
    load("hf://me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load("hf://me/tiny")
    assert "HF_HUB_OFFLINE is set, and ulzoo.yaml is not in the cache" in refusal("hf://me/other")


def test_all_files_are_of_one_commit(published):
    """A push between the downloads of manifest and weights changes nothing."""
    model = find_model("hf://me/tiny")
    alter(published, "model.safetensors", lambda oid: b"0" * 64)
    assert model.weights().is_file()


def test_a_broken_download_is_resumed(published, export, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    size = export.stat().st_size
    published.cut = [100_000, 50_000]
    with pytest.warns(UserWarning, match="hf://me/tiny: the connection broke; the download is resumed"):
        load("hf://me/tiny")
    ranges = [headers.get("range") for method, path, headers in published.requests if path.startswith("/large")]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"] and size > 150_000


def test_the_token_goes_to_the_hub_alone(published):
    published.repositories["me/tiny"].private = True
    load("hf://me/tiny")
    sent = {path.startswith("/large"): headers.get("authorization") for _, path, headers in published.requests}
    assert sent == {False: f"Bearer {published.token}", True: None}


# --- a model that does not


def test_missing_repositories_revisions_and_files(published):
    assert "no such repository, or it is private or gated" in refusal("hf://me/absent")
    assert "the repository has no revision 'v9'" in refusal("hf://me/tiny@v9")
    alter(published, "ulzoo.yaml", lambda _: None)
    assert refusal() == "hf://me/tiny: the repository has no ulzoo.yaml, so it is no model of ulzoo"


def test_a_private_repository(published, monkeypatch):
    published.repositories["me/tiny"].private = True
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "your token (`hf auth login`) has no access" in refusal()


def test_no_network(hub, monkeypatch):
    hub.down = True
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.warns(UserWarning, match=r"hf://me/tiny: the hub does not answer; trying again in \S+ s, attempt"):
        assert refusal() == "hf://me/tiny: the hub cannot be reached, and ulzoo.yaml is not in the cache"


def test_a_hub_that_never_answers(hub, monkeypatch):
    """It is given up after three attempts, each announced."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.url, url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.warns(
            UserWarning, match="the hub does not answer; trying again in .* s, attempt [23] of 3"
        ) as lines:
            assert refusal() == "hf://me/tiny: the hub cannot be reached, and ulzoo.yaml is not in the cache"
    assert len(lines) == 2


def test_a_connection_that_keeps_breaking(published, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    published.cut = [0] * 20
    with pytest.warns(UserWarning, match="the download is resumed"):
        assert "the connection to the hub failed (RemoteProtocolError); try again" in refusal()
    published.cut = []
    load("hf://me/tiny")


@pytest.mark.parametrize("text", ["hf://", "hf://tiny", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "hf://a/b@../x"])
def test_no_address(text, hub):
    with pytest.raises(ValueError, match="an address on the hub is hf://ORG/REPO"):
        load(text)
    assert hub.requests == []


# --- altered files


def test_altered_weights_are_refused_before_they_are_read(published, monkeypatch):
    oid = next(iter(published.large))
    published.large[oid] = published.large[oid][:-1] + b"?"
    monkeypatch.setattr("safetensors.torch.load_file", None)
    assert re.search(
        r"SHA-256 is [0-9a-f]{12}…, but [0-9a-f]{12}… in its manifest; if the download is damaged, remove", refusal()
    )


def test_weights_altered_in_the_cache(published):
    path = find_model("hf://me/tiny").weights().resolve()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert str(path.name) not in refusal() and "SHA-256 is" in refusal()
    path.unlink()
    load("hf://me/tiny")


def test_an_altered_spec(published):
    alter(published, "spec.yaml", lambda text: text.replace(b"width: 32", b"width: 33"))
    with pytest.raises(ValueError, match="SHA-256 is"):
        load_spec("hf://me/tiny")


BOMB = b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 31))
BAD_MANIFESTS = {
    "not YAML": (b"{", "hf://me/tiny: ulzoo.yaml:1: not valid YAML"),
    "object": (b"!!python/object/apply:os.system [true]", "the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
    "unknown key": (b"name: x\nrun: me\n", "run: unknown key"),
    "path": (b"sha256: {../../x: '" + b"0" * 64 + b"'}\n", "sha256: '../../x' is not a plain file name"),
    "absolute": (b"sha256: {/etc/passwd: '" + b"0" * 64 + b"'}\n", "'/etc/passwd' is not a plain file name"),
    "short hash": (b"sha256: {a: '00'}\n", "a: a SHA-256 has 64 hexadecimal digits"),
    "no files": (b"name: x\nsha256: {}\n", "sha256: expected at least 1 value"),
    "large": (b"#" * 2**21, "larger than 1 MiB"),
    "aliases": (b"a0: &a0 [x, x]\n" + BOMB, "aliases expand to more than 10000 values, or refer to themselves"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_an_invalid_manifest(published, case):
    text, words = BAD_MANIFESTS[case]
    alter(published, "ulzoo.yaml", lambda _: text)
    assert words in refusal()


def test_a_manifest_that_lists_a_missing_file(published):
    alter(published, "model.safetensors", lambda _: None)
    assert "the repository has no model.safetensors, which its ulzoo.yaml lists" in refusal()


def test_a_spec_that_reaches_for_files_of_the_user(published, tmp_path):
    """A published spec is resolved and cannot extend another one."""
    from hashlib import sha256

    (tmp_path / "secret.yaml").write_text("password: x\n")
    spec = f"extends: {tmp_path}/secret.yaml\n".encode()
    before = published.repositories["me/tiny"]
    digest = sha256(before.commits[before.refs["main"]]["spec.yaml"]).hexdigest()
    alter(published, "spec.yaml", lambda _: spec)
    alter(published, "ulzoo.yaml", lambda text: text.replace(digest.encode(), sha256(spec).hexdigest().encode()))
    with pytest.raises(ValueError, match=r"spec\.yaml:1: extends: unknown key"):
        load_spec("hf://me/tiny")


# --- the command line


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize(
    "command",
    [("sample", "--n", 2), ("reconstruct", "--n", 2), ("evaluate", "--limit", 2), ("show",), ("train", "--dry-run")],
    ids=lambda command: command[0],
)
def test_commands_take_an_address(published, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(command[0], "hf://me/tiny", *command[1:])
    assert result.exit_code == 0, result.output


def test_a_mistake_is_one_line_and_status_2(published):
    result = run("sample", "hf://me/absent")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: hf://me/absent: there is no such repository")


def test_the_environment_variables_of_the_hubs_own_tools_apply(published, tmp_path):
    """In a process of its own: HF_ENDPOINT, HF_HOME, HF_TOKEN, then HF_HUB_OFFLINE."""
    settings = {"HF_ENDPOINT": published.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    settings["HF_TOKEN"] = published.token
    code = "from ulzoo.registry.zoo.hub import find_model; print(find_model('hf://me/tiny').weights().name)"
    for more in ({}, {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | settings | more, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "model.safetensors\n"
        assert published.token not in done.stderr
    assert Path(tmp_path / "home" / "hub" / "models--me--tiny").is_dir()
