import gc
import hashlib
import multiprocessing
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from itertools import islice
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if TYPE_CHECKING:
    from ulzoo.data.storage.remote import RemotePath

# A first call may import, and a machine may be busy: no deadlines. The same examples each time; `pytest
# --hypothesis-profile=explore` looks for new ones.
settings.register_profile("ulzoo", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("ulzoo")


STARTED = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come last."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip slow tests from SLOW_TESTS_UNTIL seconds on, if that is set: CI has a time limit, and machines differ."""
    limit = os.environ.get("SLOW_TESTS_UNTIL")
    if limit and item.get_closest_marker("slow") and time.monotonic() - STARTED > float(limit):
        pytest.skip(f"slow, and more than {limit} s have passed on this machine (SLOW_TESTS_UNTIL)")


def pytest_collection_finish() -> None:
    """Exempt the imported modules from garbage collection, which would visit them again and again."""
    gc.collect()
    gc.freeze()


COMMAND = """
import os, sys, torch
from ulzoo.cli import main
from ulzoo.training import profiling

torch.set_num_threads(1)
profiling.MATRIX_SIDES["cpu"] = (128,)  # the peak of the device is measured in milliseconds
profiling.SECONDS_PER_SIDE = 0.01
for number, path in zip((1, 2), outputs):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
os.environ.update(environment)
sys.argv = ["ulzoo", *arguments]
exec(prepare)
main()
"""


@pytest.fixture(scope="session")
def clip_weights(tmp_path_factory) -> tuple[Path, str]:
    """Weights of a CLIP of two blocks for images of 32², in the layout of OpenAI's published files, and their hash."""
    import torch
    from safetensors.torch import save_file

    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "text_projection.weight": (8, 64),
        "visual_projection.weight": (8, 64),
        "text_model.embeddings.token_embedding.weight": (49408, 64),
        "text_model.embeddings.position_embedding.weight": (77, 64),
        "vision_model.embeddings.position_embedding.weight": (5, 64),
        "vision_model.embeddings.patch_embedding.weight": (64, 3, 16, 16),
        "vision_model.embeddings.class_embedding": (64,),
        "vision_model.embeddings.position_ids": (1, 5),
    }
    norms = ["text_model.final_layer_norm", "vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    for tower in ("text", "vision"):
        block = f"{tower}_model.encoder.layers.0"
        norms += [f"{block}.layer_norm1", f"{block}.layer_norm2"]
        layers = {**{f"self_attn.{part}_proj": (64, 64) for part in ("q", "k", "v", "out")}, "mlp.fc1": (256, 64)}
        for name, shape in {**layers, "mlp.fc2": (64, 256)}.items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    for norm in norms:
        shapes |= {f"{norm}.weight": (64,), f"{norm}.bias": (64,)}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shapes[name], generator=generator).div(8).half().float() for name in sorted(shapes)}
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file(tensors, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Starts processes that have torch and the command line imported, in milliseconds instead of four seconds."""
    context = multiprocessing.get_context("forkserver")
    modules = ("cli.commands.sweep", "registry.runs.train", "registry.sweeps.engine_local", "evaluation.evaluate")
    context.set_forkserver_preload(["torch.distributed.fsdp", *(f"ulzoo.{module}" for module in modules)])
    return context


@pytest.fixture(scope="session")
def start_command(forkserver: ForkServerContext) -> Callable[..., BaseProcess]:
    """start_command(arguments): the process of `ulzoo ARGUMENTS`, started warm.

    `outputs` are the files of stdout and stderr, `environment` is added to that of the server, and `prepare` is code to
    execute before the command. tests/cli/test_entry_point.py starts the command as users do.
    """

    def start(
        arguments: Sequence[object],
        *,
        prepare: str = "",
        environment: dict[str, str] | None = None,
        outputs: Sequence[Path] = (),
    ) -> BaseProcess:
        names = {
            "arguments": [str(argument) for argument in arguments],
            "environment": {"OMP_NUM_THREADS": "1", **(environment or {})},
            "outputs": [str(path) for path in outputs],
            "prepare": prepare,
        }
        process = forkserver.Process(target=exec, args=(COMMAND, names))
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 44 training and 6 validation images in two classes: coloured gradients of 16×16 pixels."""
    root, rng = tmp_path_factory.mktemp("data") / "images", np.random.default_rng(0)
    for split, count in (("train", 44), ("val", 6)):
        for i in range(count):
            folder = root / split / ("even" if i % 2 == 0 else "odd")
            folder.mkdir(parents=True, exist_ok=True)
            corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            Image.fromarray(corners).resize((16, 16), Image.Resampling.BILINEAR).save(folder / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def tiny(images: Path) -> Callable:
    """The spec `tests/tiny.yaml` on those images, with overrides."""
    from ulzoo.registry import load_spec

    return lambda *overrides: load_spec(Path(__file__).parent / "tiny.yaml", [f"data.root={images}", *overrides])


@pytest.fixture(scope="session")
def tiny_video() -> Callable:
    """The spec `tests/tiny_video.yaml`, 8 frames of the embedded clips of which 3 are given, with overrides."""
    from ulzoo.registry import load_spec

    return lambda *overrides: load_spec(Path(__file__).parent / "tiny_video.yaml", overrides)


@pytest.fixture(scope="session")
def kinetics_layout() -> Callable[..., Path]:
    """`kinetics_layout(root, split, count)`: real clips below `root/videos` as Kinetics' files are found, and its CSV.

    The clips are embedded emoji; the CSV lists nine missing videos and a damaged one too. Classes are 0 to 8.
    """

    def lay_out(root: Path, split: str, count: int) -> Path:
        contents = {}
        with tarfile.open(str(files("ulzoo.data") / "embedded" / f"emoji3d-video-64-{split}.tar.gz")) as tar:
            for member in islice(tar, 2 * count):
                file = tar.extractfile(member)
                assert file is not None
                contents[member.name] = file.read()
        rows = [(f"class {i}", f"{split}-missing{i}") for i in range(9)] + [("class 0", f"{split}-damaged")]
        videos = {f"{split}-damaged_000005_000015.mp4": bytes(4000)}
        for i, key in enumerate(sorted(name[:-4] for name in contents if name.endswith(".mp4"))):
            label, youtube_id = f"class {int(contents[key + '.cls'])}", f"{split}-{i:06d}"
            trimmed = f"{youtube_id}_000005_000015.mp4"
            name = [f"{split}/{trimmed}", f"{split}/{label}/{trimmed}", f"{youtube_id}.mp4"][i % 3]
            videos[name] = contents[key + ".mp4"]
            rows.append((label, youtube_id))
        for name, content in videos.items():
            path = root / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        lines = [f"{label},{youtube_id},5,15,{'validate' if split == 'val' else split}" for label, youtube_id in rows]
        table = root / f"{split}.csv"
        table.write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines]) + "\n")
        return table

    return lay_out


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of a server with the protocol of S3 that keeps its objects in memory."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> "RemotePath":
    """An empty folder in a bucket of `s3_server`, which the environment names."""
    from s3fs import S3FileSystem

    from ulzoo.data.storage.remote import RemotePath
    from ulzoo.runtime.seeds import derive_seed

    for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    S3FileSystem().makedirs("bucket", exist_ok=True)
    return RemotePath(f"s3://bucket/{derive_seed(request.node.nodeid)}")
