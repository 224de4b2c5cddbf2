"""Training on several processes: the losses of a single one, one error message, no work lost when a process dies."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain, islice
from pathlib import Path

import pytest
import torch

from ulzoo.data import StreamShard, batches
from ulzoo.registry.compile import open_source
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.runtime.processes import ProcessGroup
from ulzoo.training.interruption import STOPPED_STATUS, StopSignals
from ulzoo.training.monitoring import read_rows

STILL = ("prior.backbone.dropout=0", "decoder.backbone.dropout=0")  # every process draws its own dropout masks
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def command(request, images):
    """command(count, folder, *options): `ulzoo train tests/tiny.yaml` on `count` processes."""

    def command(count: int, folder: Path, *options: str, overrides=STILL, restarts: int = 0) -> list[str]:
        alone = [sys.executable, "-m", "ulzoo"]
        together = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", f"--max-restarts={restarts}"]
        launcher = alone if count == 1 else [sys.executable, "-m", *together, "-m", "ulzoo"]
        spec = str(request.config.rootpath / "tests" / "tiny.yaml")
        settings = [word for text in (f"data.root={images}", *overrides) for word in ("--set", text)]
        return [*launcher, "train", spec, "--out", str(folder), "--device", "cpu", *settings, *options]

    return command


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl")]


def figures(folder: Path) -> dict[str, float]:
    return json.loads((folder / "figures.json").read_text())["figures"]


# --------------------------------------------------------------------------------------------------------- the same run


@pytest.mark.parametrize(
    ("count", "kind", "optimizer"),
    [(2, "fsdp", "muon"), pytest.param(4, "ddp", "adamw", marks=pytest.mark.slow)],
)
def test_the_number_of_processes_changes_nothing(count, kind, optimizer, command, tiny, tmp_path):
    settings = (*STILL, f"train.latents.optimizer={optimizer}", f"train.base.optimizer={optimizer}")
    train(tiny(*settings), tmp_path / "one")
    done = run(command(count, tmp_path / "many", overrides=(*settings, f"train.parallel.kind={kind}")))
    assert done.returncode == 0, done.stderr
    assert f"{count} processes, each with a share of every batch" in done.stdout
    assert done.stdout.count("Trained and measured") == 1
    rounding = 1e-4 if optimizer == "adamw" else 1e-3  # muon's matrices are rounded to bf16
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=rounding)
    one, many = figures(tmp_path / "one"), figures(tmp_path / "many")
    for name in ("bits_per_pixel", "base_bits_per_pixel", "psnr_db"):
        assert many[name] == pytest.approx(one[name], rel=1e-3)


def test_local_batches_make_up_the_global_batch(tiny):
    source = open_source(tiny(), "train")

    def keys(**share) -> list[list[str]]:
        return [
            batch["key"] for batch in islice(batches(source, 8, seed=1, start=16, **share), 7)
        ]  # over an epoch's end

    shares = [keys(shard=StreamShard(rank, 4), workers=rank // 2) for rank in range(4)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == keys()


@pytest.mark.parametrize(
    ("count", "batch_size", "accumulate", "message"),
    [
        (3, 32, 1, "32 cannot be shared by 3 processes; 30 or 33 can"),
        (4, 6, 2, "6 cannot be shared by 4 processes of 2 accumulated parts each; 8 can"),
    ],
)
def test_a_batch_size_that_does_not_divide_evenly_is_refused_with_suggestions(count, batch_size, accumulate, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ProcessGroup(0, count).local_batch_size(batch_size, accumulate)
    assert ProcessGroup(1, 4).local_batch_size(32, 2) == 8


@pytest.mark.slow
def test_distributed_evaluation_equals_that_of_one_process(tiny, tmp_path):
    train(tiny("train.latents.steps=2", "train.base.steps=2"), tmp_path / "run")
    asked = ["--frechet", "fd_efficientnet_lite0", "--samples", "10", "--batch-size", "2", "--device", "cpu", "--json"]
    evaluate = ["-m", "ulzoo", "evaluate", str(tmp_path / "run"), *asked]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    results = []
    for launcher in ([], together):
        done = run([sys.executable, *launcher, *evaluate])
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert results[1]["hashes"] == results[0]["hashes"]
    assert results[1]["figures"] == pytest.approx(results[0]["figures"], rel=1e-6)


# ---------------------------------------------------------------------------------------------------- one error for all


def test_a_mistake_is_reported_by_one_process(command, tmp_path):
    done = run(command(2, tmp_path / "run", overrides=("train.latents.accumulate=8",)))
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(lines) == 1 and lines[0].endswith(
        "8 cannot be shared by 2 processes of 8 accumulated parts each; 16 can"
    )
    assert "tiny.yaml:" in lines[0] and "train.latents.batch_size" in lines[0]
    assert done.returncode != 0 and not (tmp_path / "run").exists()


SCRIPT = """
import sys, torch
from pathlib import Path
from ulzoo.registry import load_spec
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training import trainer
from ulzoo.training.monitoring import NonFiniteLoss
from ulzoo.runtime.processes import process_group

step = trainer.Trainer._step
def hurt(self, batch, *, stop=False):
    if self.step == 5 and self.processes.rank == 1:
        batch["x"][2] = float("nan")
    return step(self, batch, stop=stop)
trainer.Trainer._step = hurt
with process_group(torch.device("cpu"), 1) as processes:
    try:
        train(load_spec(sys.argv[1], sys.argv[3:]), Path(sys.argv[2]), processes=processes)
    except NonFiniteLoss as error:
        print(f"process {processes.rank}: {error}", flush=True)
"""


def test_a_broken_loss_on_one_process_stops_all_at_that_step(request, images, tmp_path):
    (tmp_path / "hurt.py").write_text(SCRIPT)
    spec = str(request.config.rootpath / "tests" / "tiny.yaml")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tmp_path / "hurt.py"]
    done = run([sys.executable, *map(str, launcher), spec, str(tmp_path / "run"), f"data.root={images}", *STILL])
    reports = re.findall(r"process (\d): stage latents, step 6: (\S+) is nan on the images (.*?);", done.stdout)
    assert sorted(rank for rank, _, _ in reports) == ["0", "1"], done.stderr
    assert reports[0][1:] == reports[1][1:] and len(reports[0][2].split(", ")) == 4  # of process 1


# ------------------------------------------------------------------------------------------------------ nothing is lost


def start(command: list[str], folder: Path, step: int) -> subprocess.Popen:
    """Start a run, and return when it has reached a step of stage 1."""
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(row["step"] >= step for row in read_rows(folder / "metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, STOPPED_STATUS), (signal.SIGINT, 130)])
def test_a_run_stopped_by_a_signal_resumes_to_the_same_bits(number, status, command, tiny, tmp_path):
    long = (
        "train.latents.steps=600",
        "train.latents.log_every=1",
        "train.base.steps=5",
        "train.latents.decay=constant",
    )
    process = start(command(1, tmp_path / "run", overrides=(*STILL, *long)), tmp_path / "run", 3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    match = re.search(rf"stopped by {signal.Signals(number).name}, saved at latents step (\d+); use --resume", stderr)
    assert match, stderr
    assert (tmp_path / "run" / "checkpoints" / f"latents-{int(match[1]):08d}").is_dir()
    short = (*STILL, *long[1:], f"train.latents.steps={int(match[1]) + 3}")
    train(tiny(*short), tmp_path / "run", RunOptions(resume=True))
    train(tiny(*short), tmp_path / "whole")
    assert torch.equal(*(_weights(tmp_path / name) for name in ("run", "whole")))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_signal_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_forked_worker_ends_on_sigterm_only():
    with StopSignals() as signals:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        time.sleep(0.1)
        os.kill(child, signal.SIGINT)  # Ctrl-C reaches all processes of a terminal; the parent handles it
        time.sleep(0.1)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert signals.received == 0


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_resumes_on_another_number(command, tiny, tmp_path):
    """Two shards are read by one process and by three."""
    settings = (*STILL, "train.parallel.kind=fsdp", "train.latents.decay=constant", "train.latents.batch_size=12")
    half = (*settings, "train.latents.steps=12", "train.parallel.checkpoint_activations=true")
    done = run(command(2, tmp_path / "run", "--stage", "latents", overrides=half))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run/checkpoints/latents-00000012").glob("*.safetensors"))) == 2
    train(tiny(*settings), tmp_path / "whole", RunOptions(stage="latents"))
    for number in (1, 3):
        folder = shutil.copytree(tmp_path / "run", tmp_path / f"by {number}")
        if number == 1:
            train(tiny(*settings), folder, RunOptions(stage="latents", resume=True))
        else:
            done = run(command(number, folder, "--stage", "latents", "--resume", overrides=settings))
            assert done.returncode == 0 and "resuming latents at step 12" in done.stdout, done.stderr
        assert losses(folder) == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_the_run_ends_in_the_same_bits(command, assert_same_run, tmp_path):
    short = (*STILL, "train.latents.steps=30", "train.latents.log_every=1", "train.base.steps=5")
    reference = run(command(2, tmp_path / "whole", overrides=short))
    assert reference.returncode == 0, reference.stderr
    process = start(command(2, tmp_path / "run", overrides=short, restarts=1), tmp_path / "run", 12)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_going(tiny, tmp_path, monkeypatch):
    from ulzoo.training.checkpointing import CheckpointManager

    save = CheckpointManager.save

    def full(self, state, group):
        if state.step == 10 and state.stage == "latents":
            raise OSError(28, "No space left on device")
        return save(self, state, group)

    monkeypatch.setattr(CheckpointManager, "save", full)
    with pytest.warns(
        UserWarning, match=r"step 10: no checkpoint was written \(No space left on device\); the last one"
    ):
        train(tiny(), tmp_path / "full")
    monkeypatch.undo()
    train(tiny(), tmp_path / "whole")
    assert torch.equal(*(_weights(tmp_path / name) for name in ("full", "whole")))


def _weights(folder: Path) -> torch.Tensor:
    from ulzoo.registry.zoo.catalogue import load

    return torch.cat([parameter.flatten() for parameter in load(folder).parameters()])
