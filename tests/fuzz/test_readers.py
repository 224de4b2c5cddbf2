"""For any bytes, a reader of files either succeeds or raises a ValueError of one printable line.

`INPUTS=10000 pytest tests/fuzz --hypothesis-profile=fuzz` tries that many random inputs on each reader, different ones
in each run. Inputs that once caused other errors have tests of their own.
"""

import io
import json
import struct
import tarfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ulzoo.data.images import hf_dataset
from ulzoo.data.images.image_folder import ImageFolder
from ulzoo.data.images.webdataset import WebDataset
from ulzoo.data.latents import Latents, Origin, write_latents
from ulzoo.data.source import Source
from ulzoo.data.storage.manifest import Manifest, Shard
from ulzoo.files import tensor_file
from ulzoo.files.atomic import sha256
from ulzoo.registry.compile import compile_model
from ulzoo.registry.report.html_report import describe, render
from ulzoo.registry.runs.export import load_export, save_export
from ulzoo.registry.spec.schema import flatten
from ulzoo.registry.spec.yaml_source import parse_override, parse_yaml, read_yaml
from ulzoo.registry.sweeps.store import Store
from ulzoo.registry.zoo.catalogue import load_spec
from ulzoo.registry.zoo.release import read_manifest
from ulzoo.training.checkpoint import Checkpoint, TrainingState, _digest, write_checkpoint


@contextmanager
def only_value_errors(printable: bool = True) -> Iterator[None]:
    """Permit only ValueErrors with a printable message in the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ValueError as error:
            message = str(error)
            assert message and (message.isprintable() or not printable), repr(error)


# --- inputs, each generated from a seed that hypothesis draws

SEEDS = st.integers(0, 2**64 - 1)
WORDS = [*"{}[]?-:,#'|>\"\t\n\0\x85\u2028\ud800=.~é01", ": ", "- ", "\n  ", "---", "&a ", "*a", "<<: ", "null", "true"]
WORDS += ["!!python/object:os.system ", "1e999", ".nan", "-1", str(2**63 - 1), "kind", "extends", "../", "/etc/passwd"]
WORDS += ["\x1b[31m", "<script>alert(1)</script>", "x-00001-of-00001.safetensors"]
CHUNKS = [b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"-1", b"9" * 12, b"1e400", b"[" * 1500, b"../", b"\n", b"{"]
SCALARS = [None, True, False, 0, -1, 3, 2**31, 2**63, 10**30, -0.5, 1e308, float("inf"), float("nan"), "", "x"]


def text(rng: Random) -> str:
    """A few words and characters."""
    count = rng.randrange(13)
    return "".join(rng.choice(WORDS) if rng.random() < 0.7 else chr(rng.randrange(0x250)) for _ in range(count))


def value(rng: Random, depth: int = 0) -> Any:
    """JSON data of any kind."""
    match rng.randrange(8 if depth < 3 else 6):
        case 6:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 7:
            return {text(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}
        case 0 | 1:
            return text(rng)
        case _:
            return rng.choice(SCALARS)


def altered(rng: Random, content: bytes) -> bytes:
    """`content` after a few edits: bytes inserted, removed or replaced."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        begin = rng.randrange(len(data) + 1)
        end = begin + rng.choice([0, 0, 1, 1, 2, 8, 30, 512])
        data[begin:end] = rng.choice([b"", rng.randbytes(1), rng.randbytes(rng.randrange(9)), rng.choice(CHUNKS)])
    return bytes(data)


def replaced(rng: Random, data: Any) -> Any:
    """JSON data in which one value at any depth is replaced or removed."""
    data = json.loads(json.dumps(data))
    parent, key, node = None, None, data
    while isinstance(node, dict | list) and node and (parent is None or rng.random() < 0.75):
        parent, key = node, rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node = parent[key]
    if parent is None:
        return value(rng)
    if rng.random() < 0.85:
        parent[key] = value(rng)
    else:
        del parent[key]
    return data


def as_json(data: Any) -> bytes:
    return json.dumps(data).encode("utf-8", "surrogatepass")


def one_of(rng: Random, *contents: Callable[[], bytes]) -> bytes:
    return rng.choice(contents)()


# --- YAML: specs, overrides, release manifests

TINY = (Path(__file__).parents[1] / "tiny.yaml").read_bytes()
CARD = b"""name: x
sha256: {model.safetensors: %s, spec.yaml: %s}
license: mit
figures: {psnr_db: 20.5, by_frame: [1.0, 2.0]}
protocol: {data: {kind: emoji3d}, images: 4}
""" % (b"0" * 64, b"a" * 64)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Callable[[bytes, str], Path]:
    folder = tmp_path_factory.mktemp("fuzz")

    def write(content: bytes, name: str = "x.yaml") -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return write


def grown(rng: Random, content: bytes) -> bytes:
    return content + text(rng).encode("utf-8", "surrogatepass")


@given(seed=SEEDS)
def test_yaml(seed):
    rng = Random(seed)
    with only_value_errors():
        parse_yaml(text(rng), "f").plain()
    with only_value_errors():
        parse_override(text(rng))


@given(seed=SEEDS)
def test_yaml_files(file, seed):
    rng = Random(seed)
    with only_value_errors():
        read_yaml(file(one_of(rng, lambda: rng.randbytes(40), lambda: altered(rng, TINY))), "x.yaml").plain()


@given(seed=SEEDS)
def test_specs(file, seed):
    rng = Random(seed)
    with only_value_errors():
        load_spec(file(one_of(rng, lambda: altered(rng, TINY), lambda: grown(rng, TINY))))


@pytest.fixture(scope="module")
def keys(tiny) -> list[str]:
    return sorted(flatten(tiny().to_dict()))


@given(seed=SEEDS)
def test_overrides(file, keys, seed):
    rng = Random(seed)
    parts = rng.choice(keys).split(".")
    key = ".".join(parts[: rng.randint(1, len(parts))])
    with only_value_errors():
        load_spec(file(TINY), ["data.root=/nowhere", f"{key}={rng.choice([text(rng), value(rng)])}"])


@given(seed=SEEDS)
def test_cards(file, seed):
    rng = Random(seed)
    with only_value_errors():
        card = read_manifest(file(one_of(rng, lambda: altered(rng, CARD), lambda: grown(rng, CARD))), "ulzoo.yaml")
        assert all("/" not in name and not name.startswith(".") for name in card.sha256)
        assert read_manifest(file(card.to_yaml().encode()), "again") == card


# --- safetensors: checkpoints, exports, their parts


@pytest.fixture(scope="module")
def tensor_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("tensors") / "x.safetensors"
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(0), "c": torch.tensor(1, dtype=torch.int64)}
    tensor_file.write(path, tensors, {"spec": {}, "stages": [], "results": {}})
    return path.read_bytes()


def reheaded(rng: Random, content: bytes) -> bytes:
    """A safetensors file with another header and its correct length."""
    length = struct.unpack("<Q", content[:8])[0]
    header = as_json(replaced(rng, json.loads(content[8 : 8 + length])))
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


@given(seed=SEEDS)
def test_tensor_files(file, tensor_bytes, seed):
    rng = Random(seed)
    content = one_of(rng, lambda: altered(rng, tensor_bytes), lambda: reheaded(rng, tensor_bytes))
    path = file(content, "x.safetensors")
    for read in (tensor_file.digest_of, tensor_file.read_metadata, tensor_file.read):
        with only_value_errors():
            read(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    tensors = {"model.a": torch.ones(2, 3), "model.b": torch.zeros(0), "optimizer.c": torch.tensor(1)}
    folder = tmp_path_factory.mktemp("checkpoints") / "one"
    write_checkpoint(TrainingState("latents", 3, tensors, {"window": {}}), folder)
    return folder


@given(seed=SEEDS)
def test_checkpoints(checkpoint, seed):
    """Altered checkpoints, and forged ones with valid digests."""
    rng = Random(seed)
    description, shard = checkpoint / "checkpoint.json", next(checkpoint.glob("*.safetensors"))
    before = description.read_bytes(), shard.read_bytes()
    content = json.loads(before[0])
    del content["digest"]
    if rng.random() < 0.7:
        length = struct.unpack("<Q", before[1][:8])[0]
        header = json.loads(before[1][8 : 8 + length])
        kept = header["__metadata__"]
        places = as_json(replaced(rng, json.loads(kept["DCP_SHARDING_INFO"]))).decode("utf-8", "replace")
        header["__metadata__"] = rng.choice([kept, kept | {"DCP_SHARDING_INFO": places}])
        new = json.dumps(header if rng.random() < 0.5 else replaced(rng, header)).encode()
        shard.write_bytes(struct.pack("<Q", len(new)) + new + before[1][8 + length :])
        content["files"] = {shard.name: sha256(shard)}
    else:
        content = replaced(rng, content)
    digest = {"digest": _digest(content)} if isinstance(content, dict) else {}
    description.write_bytes(as_json({**content, **digest}) if digest else altered(rng, before[0]))
    try:
        with only_value_errors():
            Checkpoint.open(checkpoint).read("")
    finally:
        description.write_bytes(before[0])
        shard.write_bytes(before[1])


INDEX = {
    "metadata": {"total_size": 8, "ulzoo": "export", "version": "1", "content": "{}", "digest": "0" * 64},
    "weight_map": {"a": "y-00001-of-00002.safetensors", "b": "y-00002-of-00002.safetensors"},
}


@given(seed=SEEDS)
def test_indices_of_parts(file, seed):
    rng = Random(seed)
    content = one_of(rng, lambda: as_json(replaced(rng, INDEX)), lambda: altered(rng, as_json(INDEX)))
    path = file(content, "y.safetensors.index.json")
    with only_value_errors():
        assert all(part.parent == path.parent for part in tensor_file.files_of(path))
    with only_value_errors():
        tensor_file.read(path)


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory) -> tensor_file.TensorFile:
    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    save_export(path, compile_model(tiny()), tiny(), {"figures": {"psnr_db": 1.0}, "protocol": {}})
    return tensor_file.read(path)


@settings(max_examples=settings.default.max_examples // 10)  # each input builds networks
@given(seed=SEEDS)
def test_exports(file, exported, seed):
    """Any metadata, with a valid digest."""
    metadata = replaced(Random(seed), exported.metadata)
    path = file(b"", "model.safetensors")
    with only_value_errors():
        tensor_file.write(path, exported.tensors, metadata)
        load_export(path)


def label_names(rng: Random) -> Any:
    """What an export may have as the names of its two labels, or some mistake."""
    names = [rng.choice([text(rng), *SCALARS]) for _ in range(rng.choice([0, 1, 2, 2, 2, 3]))]
    return rng.choice([value(rng), names, names, [text(rng), text(rng)], {str(name): 0 for name in names}])


@settings(max_examples=settings.default.max_examples // 10)
@given(seed=SEEDS)
def test_label_names_and_plugins_of_exports(file, exported, seed):
    """They are none, or one printable text for each label; kinds and packages of plug-ins may be anything."""
    rng = Random(seed)
    metadata = {**json.loads(json.dumps(exported.metadata)), "label_names": label_names(rng)}
    if rng.random() < 0.3:
        kind = rng.choice([text(rng), *SCALARS])
        metadata["spec"][rng.choice(["encoder", "data"])]["kind"] = kind
        metadata["plugins"] = rng.choice([value(rng), {f"encoder {kind!r}": value(rng)}])
    path = file(b"", "model.safetensors")
    with only_value_errors():
        tensor_file.write(path, exported.tensors, metadata)
        names = load_export(path).model.contract.label_names
        assert len(names) in (0, 2) and all(name.isprintable() for name in names)


# --- data: tar shards, precomputed latents, columns of Hugging Face's datasets


def tar(*members: tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


MEMBERS = [("a/0.png", b"not a picture"), ("a/0.cls", b"1"), ("é" * 60 + ".png", b"x" * 600), ("b.cls", b"-1")]
TARS = [tar(*MEMBERS, format=kind) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]


@given(seed=SEEDS)
def test_shards(file, seed):
    rng = Random(seed)
    content = altered(rng, rng.choice(TARS))
    root = file(content, "train-000000.tar").parent
    (root / ".index-train.npz").unlink(missing_ok=True)
    read_all(lambda: WebDataset("train", root=str(root), resolution=8, num_classes=2))
    (root / ".index-train.npz").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A folder of precomputed latents."""
    folder = tmp_path_factory.mktemp("latents")
    path, settings = folder / "train-00000.safetensors", "0" * 64
    z_clean = torch.arange(3 * 2 * 4, dtype=torch.float16).reshape(3, 2, 1, 2, 2)
    texts = [torch.ones(n, 2, dtype=torch.float16) for n in (1, 0, 2)]
    images_as = asdict(ImageFolder.describe(resolution=8, num_classes=2, text_tokens=2, text_width=2))
    manifest = Manifest(folder, "images", ".safetensors")
    manifest.begin("train", {"encoder_sha256": "0" * 64, "flips": True, "images_as": images_as})
    content = {"labels": [0, 1, 1], "keys": ["a", "b", "c"], "texts": texts, "origin": Origin(settings, "", [1, 2, 3])}
    write_latents(path, z_clean, **content)
    manifest.finish("train", [Shard.of(path, 3, {})])
    return folder


def read_all(open_source: Callable[[], Source]) -> None:
    """Read the first examples of a source; opening it or reading any of them may fail."""
    with only_value_errors(printable=False):
        source = open_source()
        assert len(source) < 10_000
        for i in range(min(len(source), 5)):
            with only_value_errors(printable=False):
                source[i]


def read_latents(folder: Path, shard: bytes, manifest: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "train-00000.safetensors").write_bytes(shard)
    (folder / "manifest.json").write_bytes(as_json(manifest))
    read_all(lambda: Latents("train", path=str(folder)))


@given(seed=SEEDS)
def test_kept_latents(kept, file, seed):
    rng, manifest = Random(seed), json.loads((kept / "manifest.json").read_bytes())
    shard = (kept / "train-00000.safetensors").read_bytes()
    shard = one_of(rng, lambda: altered(rng, shard), lambda: reheaded(rng, shard))
    manifest["splits"]["train"]["shards"][0]["bytes"] = len(shard)
    read_latents(file(b"", "nothing").parent / "latents", shard, manifest)


@given(seed=SEEDS)
def test_manifests_of_kept_latents(kept, file, seed):
    manifest = replaced(Random(seed), json.loads((kept / "manifest.json").read_bytes()))
    shard = (kept / "train-00000.safetensors").read_bytes()
    read_latents(file(b"", "nothing").parent / "latents", shard, manifest)


PNG = io.BytesIO()
Image.new("RGB", (8, 8)).save(PNG, "PNG")


def column(rng: Random, rows: int) -> list[Any]:
    """A column of values of one type, some of them missing or of another type."""
    kinds: list[Callable[[], Any]] = [
        lambda: rng.choice([PNG.getvalue(), altered(rng, PNG.getvalue()), b"", b"x"]),
        lambda: {"bytes": rng.choice([PNG.getvalue(), b"", None]), "path": rng.choice([None, "nowhere.png", ""])},
        lambda: rng.choice([0, 1, 1, -1, 2, 2**40]),
        lambda: rng.choice([0.0, 1.0, 0.7, float("nan"), 1e300]),
        lambda: rng.choice([True, False]),
        lambda: text(rng),
        lambda: [[0.5] * rng.choice([2, 2, 2, 3]) for _ in range(rng.randrange(3))],
        lambda: [rng.choice(SCALARS)],
        lambda: value(rng),
        lambda: None,
    ]
    kind = rng.choice(kinds)
    return [None if rng.random() < 0.1 else kind() for _ in range(rows)]


@settings(max_examples=settings.default.max_examples // 2)
@given(seed=SEEDS)
def test_columns_of_datasets(seed):
    datasets = pytest.importorskip("datasets")
    rng = Random(seed)
    rows = rng.randrange(4)
    images = column(rng, rows) if rng.random() < 0.5 else [PNG.getvalue()] * rows
    try:
        table = datasets.Dataset.from_dict(
            {"image": images, "label": column(rng, rows), "text_embedding": column(rng, rows)}
        )
    except Exception:  # of pyarrow, which refuses columns of several types
        return
    keys = rng.choice([{}, {"num_classes": 2}, {"num_classes": 2, "text_tokens": 2, "text_width": 2}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_dataset, "_open", lambda *_: table)
        read_all(lambda: hf_dataset.HFDataset("train", path="fuzz", resolution=8, **keys))


# --- a sweep's results

ROW = {
    **{"point": "a", "series": "s", "seed": 0, "set": {"decoder.weighting.loss_factor": 1.5}, "spec": "tiny"},
    **{"spec_hash": "0" * 64, "stages": ["latents"], "status": "done", "error": None, "protocol": {"images": 4}},
    **{"figures": {"psnr_db": 20.0, "bits_per_pixel": 0.5}, "paper": {}, "versions": {"ulzoo": "0"}},
    **{"training_images": {"latents": 8}, "training_flops": {"latents": 1e9}, "gflops": {"prior": 0.1}},
    **{"parameters": {"prior": 10}, "seconds": 1.0, "folder": "points/a-0", "finished": "2026-01-01T00:00:00"},
}


@given(seed=SEEDS)
def test_results_of_a_sweep(file, seed):
    rng = Random(seed)
    content = one_of(rng, lambda: as_json(replaced(rng, ROW)), lambda: altered(rng, as_json(ROW)))
    folder = file(b"", "nothing").parent / "store"
    folder.mkdir(exist_ok=True)
    (folder / "results.jsonl").write_bytes(json.dumps(ROW).encode() + b"\n" + content + b"\n")
    with only_value_errors():
        store = Store(folder)
        page = render(describe(store))
        assert "<script>alert" not in page
