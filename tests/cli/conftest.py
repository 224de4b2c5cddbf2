import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from ulzoo.cli import app
from ulzoo.registry.runs import train as run_module
from ulzoo.registry.sweeps import estimate
from ulzoo.training import profiling

TINY = """
name: tiny
data: {kind: emoji3d, resolution: 32}
latent: {channels: 4, downsample: [8, 8]}
encoder: {kind: vit, width: 32, depth: 1, heads: 2}
prior: {backbone: {kind: vit, width: 32, depth: 1, heads: 2}}
decoder: {backbone: {kind: vit, patch: 8, width: 32, depth: 1, heads: 2}}
base: {backbone: {kind: vit, width: 32, depth: 1, heads: 2}, class_conditional: true}
train:
  latents: {steps: 2, batch_size: 4, lr: 1e-3, log_every: 1, checkpoint_every: 1}
  base: {steps: 2, batch_size: 4, lr: 1e-3, log_every: 1}
sample: {base: {steps: 2}, decoder: {steps: 2}}
"""


STOP = """
import os
from pathlib import Path
from ulzoo.data.prepare import pack

write, before = pack._write_in_parallel, len(list(Path("out").glob("*.tar")))

def write_and_stop(shards, workers, report):
    def report_and_stop(done, failed):
        report(done, failed)
        if len(list(Path("out").glob("*.tar"))) >= before + 2:
            os.kill(os.getpid(), NUMBER)

    write(shards, workers, report_and_stop)

pack._write_in_parallel = write_and_stop
"""


@pytest.fixture
def prepare_until_stopped(start_command, tmp_path):
    """prepare_until_stopped(arguments, number): exit status and stderr of `ulzoo prepare` in `out`.

    It sends itself the signal `number` after two more shards, while its workers are writing others.
    """

    def prepare(arguments: Sequence[object], number: int) -> tuple[int, str]:
        outputs = tmp_path / "stdout.txt", tmp_path / "stderr.txt"
        process = start_command(
            [*arguments, "--workers", 2],
            prepare=STOP.replace("NUMBER", str(int(number))),
            environment={"COLUMNS": "120"},
            outputs=outputs,
        )
        process.join(300)
        return process.exitcode, outputs[1].read_text()

    return prepare


@pytest.fixture(autouse=True, scope="session")
def small():
    """Use one thread, few images, small matrices for the peak of the device, and one trial step, for speed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "EVALUATED_IMAGES", 8)
        patch.setitem(profiling.MATRIX_SIDES, "cpu", (128,))
        patch.setattr(profiling, "SECONDS_PER_SIDE", 0.01)
        patch.setattr(estimate, "STEPS", 1)
        yield
    torch.set_num_threads(threads)


def invoke(*args: object, columns: int = 120) -> Result:
    """Run a command in this process; only SystemExit may escape."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": str(columns)}, prog_name="ulzoo")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


@pytest.fixture
def ulzoo():
    return invoke


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with tiny.yaml and a finished run of it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    result = invoke("train", folder / "tiny.yaml", "--out", folder / "run", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory, with tiny.yaml in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@pytest.fixture
def run(here, trained) -> Path:
    """A copy of the finished run in the working directory."""
    shutil.copytree(trained / "run", here / "run")
    return here / "run"
