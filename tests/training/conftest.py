import json
import signal
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch

from ulzoo.files import tensor_file
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.monitoring import read_rows

VARYING = ("images_per_second", "data_wait")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in killed.py: sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KILLED = """
import os, runpy
os.environ["OMP_NUM_THREADS"] = "1"
runpy.run_path(script)["main"](job)
"""


@pytest.fixture(scope="session")
def train_and_kill(forkserver: ForkServerContext) -> Callable:
    """train_and_kill(spec, folder, kill, resume=False, stage="all"): whether it was killed."""
    script = str(Path(__file__).parent / "killed.py")

    def call(spec, folder, kill, resume=False, stage="all") -> bool:
        job = {"spec": spec.to_dict(), "folder": str(folder), "kill": kill, "resume": resume, "stage": stage}
        process = forkserver.Process(target=exec, args=(KILLED, {"script": script, "job": job}))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    return call


def run_state(folder: Path) -> dict:
    """Everything in a run directory that must not depend on interruptions."""
    paths = sorted((folder / "checkpoints").iterdir())
    state = {"files": [path.name for path in paths], "export": tensor_file.read(folder / "model.safetensors")}
    for path in paths:
        checkpoint = Checkpoint.open(path)
        state[path.name] = tensor_file.TensorFile(checkpoint.read(""), checkpoint.metadata)
    state["rows"] = [{k: v for k, v in row.items() if k not in VARYING} for row in read_rows(folder / "metrics.jsonl")]
    state["figures"] = json.loads((folder / "figures.json").read_text())
    return state


@pytest.fixture(scope="session")
def assert_same_run() -> Callable:
    """assert_same_run(folder, reference): the same bits in every checkpoint, row and figure."""

    def check(folder: Path, reference: Path) -> None:
        state, expected = run_state(folder), run_state(reference)
        for key, value in expected.items():
            if not isinstance(value, tensor_file.TensorFile):
                assert state[key] == value, key
                continue
            assert state[key].metadata == value.metadata, key
            assert state[key].tensors.keys() == value.tensors.keys()
            assert value.tensors
            for name, tensor in value.tensors.items():
                other = state[key].tensors[name]
                assert other.dtype == tensor.dtype and torch.equal(other, tensor), (key, name)

    return check
