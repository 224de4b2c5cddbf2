"""Training on several processes: the losses of a single one, one error message, no work lost when a process dies."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import ulzoo
from ulzoo.data import StreamShard, batches
from ulzoo.registry.compile import open_source
from ulzoo.registry.runs.ema import RunAverages
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.runtime.processes import ProcessGroup
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.interruption import STOPPED_STATUS, StopSignals
from ulzoo.training.monitoring import read_rows
from ulzoo.training.remote_checkpoints import RemoteCheckpoints

STILL = ("prior.backbone.dropout=0", "decoder.backbone.dropout=0")  # every process draws its own dropout masks
MUP = (
    "train.latents.parametrisation={kind: mup, proxy: {encoder: {width: 16}, decoder: {width: 16}}}",
    "train.base.parametrisation={kind: mup, proxy: {base: {width: 8}}}",
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def arguments(request, images):
    """arguments(folder, *options): `train tests/tiny.yaml` and its options."""

    def arguments(folder: Path, *options: str, overrides=STILL) -> list[str]:
        spec = str(request.config.rootpath / "tests" / "tiny.yaml")
        settings = [word for text in (f"data.root={images}", *overrides) for word in ("--set", text)]
        return ["train", spec, "--out", str(folder), "--device", "cpu", *settings, *options]

    return arguments


def torchrun(count: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "ulzoo"]


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@dataclass
class Results:
    """Exit statuses and outputs of a group of processes, by rank."""

    statuses: list[int]
    stdout: list[str]
    stderr: list[str]


@pytest.fixture
def run_group(start_command, tmp_path_factory):
    """run_group(count, arguments, prepare=""): `ulzoo` on `count` processes, started as torchrun's agent does."""

    def run_group(count: int, arguments: list[str], prepare: str = "") -> Results:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        folder, processes = tmp_path_factory.mktemp("ranks"), []
        for rank in map(str, range(count)):
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
            environment |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
            outputs = folder / f"{rank}.out", folder / f"{rank}.err"
            processes.append(start_command(arguments, prepare=prepare, environment=environment, outputs=outputs))
        for process in processes:
            process.join(300)
            assert process.exitcode is not None
        texts = ([(folder / f"{rank}.{end}").read_text() for rank in range(count)] for end in ("out", "err"))
        return Results([process.exitcode for process in processes], *texts)

    return run_group


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl")]


def figures(folder: Path) -> dict[str, float]:
    return json.loads((folder / "figures.json").read_text())["figures"]


# --------------------------------------------------------------------------------------------------------- the same run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "kind", "optimizer"),
    [(2, "fsdp", "muon"), (4, "ddp", "adamw")],
)
def test_the_number_of_processes_changes_nothing(count, kind, optimizer, arguments, run_group, tiny, tmp_path):
    settings = (*STILL, *MUP, f"train.latents.optimizer={optimizer}", f"train.base.optimizer={optimizer}")
    settings += (
        "base.schedule={kind: adaptive}",
        "distilled={steps: [1, 2]}",
        "decoder.weighting.loss_factor=[1.0, 4.0]",
    )
    settings += ("train.distill={steps: 3, batch_size: 8, lr: 1e-3, log_every: 1}",)
    train(tiny(*settings), tmp_path / "one")
    done = run_group(count, arguments(tmp_path / "many", overrides=(*settings, f"train.parallel.kind={kind}")))
    assert done.statuses == [0] * count, done.stderr
    stdout = "".join(done.stdout)
    assert f"{count} processes, each with a share of every batch" in stdout
    assert stdout.count("Trained and measured") == 1
    rounding = 1e-4 if optimizer == "adamw" else 1e-3  # muon's matrices are rounded to bf16
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=rounding)
    one, many = figures(tmp_path / "one"), figures(tmp_path / "many")
    for name in ("bits_per_pixel", "base_bits_per_pixel", "psnr_db"):
        assert many[name] == pytest.approx(one[name], rel=1e-3)
    learned = [ulzoo.load(tmp_path / run).base.schedule for run in ("one", "many")]
    assert torch.equal(learned[0].counts, learned[1].counts) and learned[0].counts.sum() > 0
    torch.testing.assert_close(learned[0].density(), learned[1].density(), rtol=rounding, atol=0)


@pytest.mark.slow
def test_every_process_uploads_its_shards(arguments, run_group, s3, tmp_path):
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    command = arguments(
        tmp_path / "run", "--stage", "latents", "--remote-checkpoints", str(s3),
        overrides=(*STILL, "train.parallel.kind=fsdp"),
    )  # fmt: skip
    done = run_group(2, command, prepare=f"os.environ.update({store!r})")
    assert done.statuses == [0, 0], done.stderr
    copies = RemoteCheckpoints(s3 / "checkpoints")
    step = copies.list_complete()[-1]
    shards = [f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)]
    assert (copies.root / step.name).list_names() == ["checkpoint.json", *shards]
    copies.download(step, tmp_path / "copy")
    assert Checkpoint.open(tmp_path / "copy").read("model.")


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
def test_distributed_evaluation_equals_that_of_one_process(run_group, tiny, tmp_path):
    train(tiny("train.latents.steps=2", "train.base.steps=2"), tmp_path / "run")
    asked = ["--frechet", "fd_efficientnet_lite0", "--samples", "10", "--batch-size", "2", "--device", "cpu", "--json"]
    results = []
    for count in (1, 2):
        done = run_group(count, ["evaluate", str(tmp_path / "run"), *asked])
        assert done.statuses == [0] * count, done.stderr
        results.append(json.loads("".join(done.stdout)))
    assert results[1]["hashes"] == results[0]["hashes"]
    assert results[1]["figures"] == pytest.approx(results[0]["figures"], rel=1e-6)


# ---------------------------------------------------------------------------------------------------- one error for all


@pytest.mark.slow
def test_a_mistake_is_reported_by_one_process(arguments, tmp_path):
    """With torchrun itself, which reports the exit status of the group too."""
    done = run([*torchrun(2), *arguments(tmp_path / "run", overrides=("train.latents.accumulate=8",))])
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(lines) == 1 and lines[0].endswith(
        "8 cannot be shared by 2 processes of 8 accumulated parts each; 16 can"
    )
    assert "tiny.yaml:" in lines[0] and "train.latents.batch_size" in lines[0]
    assert done.returncode != 0 and not (tmp_path / "run").exists()


HURT = """
from ulzoo.training import trainer

step = trainer.Trainer._step
def hurt(self, batch, *, stop=False):
    if self.step == 5 and self.processes.rank == 1:
        batch["x"][2] = float("nan")
    return step(self, batch, stop=stop)
trainer.Trainer._step = hurt
"""


def test_a_broken_loss_on_one_process_stops_all_at_that_step(arguments, run_group, tmp_path):
    done = run_group(2, arguments(tmp_path / "run"), prepare=HURT)
    reports = [re.findall(r"stage latents, step 6: (\S+) is nan on the images (.*?);", text) for text in done.stderr]
    assert len(reports[0]) == 1 and reports[0] == reports[1], done.stderr
    assert len(reports[0][0][1].split(", ")) == 4  # of process 1


# ------------------------------------------------------------------------------------------------------ nothing is lost


SIGNALLED = """
import os
from ulzoo.training import trainer

step = trainer.Trainer._step
def signalled(self, batch, *, stop=False):
    if (self.step, self.processes.rank, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == (STEP, RANK, "0"):
        os.kill(os.getpid(), NUMBER)
    return step(self, batch, stop=stop)
trainer.Trainer._step = signalled
"""


def signalled(number: int, step: int, rank: int = 0) -> str:
    """Code by which a process sends itself a signal before a step."""
    return SIGNALLED.replace("STEP", str(step)).replace("RANK", str(rank)).replace("NUMBER", str(int(number)))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGUSR1, STOPPED_STATUS), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_run_stopped_by_a_signal_resumes_to_the_same_bits(number, status, arguments, start_command, tiny, tmp_path):
    long = (
        "train.latents.steps=600",
        "train.latents.log_every=1",
        "train.base.steps=5",
        "train.latents.decay=constant",
    )
    outputs = tmp_path / "stdout", tmp_path / "stderr"
    command = arguments(tmp_path / "run", overrides=(*STILL, *long))
    process = start_command(command, prepare=signalled(number, 3), outputs=outputs)
    process.join(300)
    stderr = outputs[1].read_text()
    assert process.exitcode == status, stderr
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
def test_a_checkpoint_of_two_processes_resumes_on_another_number(arguments, run_group, tiny, tmp_path):
    """Two shards are read by one process and by three."""
    settings = (*STILL, "train.parallel.kind=fsdp", "train.latents.decay=constant", "train.latents.batch_size=12")
    settings = (*settings, "train.latents.posthoc_ema.snapshot_every=6")
    half = (*settings, "train.latents.steps=12", "train.parallel.checkpoint_activations=true")
    done = run_group(2, arguments(tmp_path / "run", "--stage", "latents", overrides=half))
    assert done.statuses == [0, 0], done.stderr
    assert len(list((tmp_path / "run/checkpoints/latents-00000012").glob("*.safetensors"))) == 2
    train(tiny(*settings), tmp_path / "whole", RunOptions(stage="latents"))
    for number in (1, 3):
        folder = shutil.copytree(tmp_path / "run", tmp_path / f"by {number}")
        if number == 1:
            train(tiny(*settings), folder, RunOptions(stage="latents", resume=True))
        else:
            done = run_group(number, arguments(folder, "--stage", "latents", "--resume", overrides=settings))
            assert done.statuses == [0] * number and "resuming latents at step 12" in done.stdout[0], done.stderr
        assert losses(folder) == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
        averages = (RunAverages(run).synthesize(0.15) for run in (folder, tmp_path / "whole"))
        ours, expected = (torch.cat([tensor.flatten() for tensor in average.values()]) for average in averages)
        assert (ours - expected).norm() < 1e-5 * expected.norm()


ELASTIC = """
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

command = main

def work():
    exec(PREPARE, {})
    try:
        command()
    except SystemExit as ended:
        if ended.code:
            raise

def main():
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="killed",
        max_restarts=1, monitor_interval=0.1, start_method="fork",
    )
    elastic_launch(config, work)()
"""
"""The agent of `torchrun --standalone --nproc-per-node=2 --max-restarts=1`, with processes that are started warm."""


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_the_run_ends_in_the_same_bits(
    arguments, run_group, start_command, assert_same_run, tmp_path
):
    short = (*STILL, "train.latents.steps=30", "train.latents.log_every=1", "train.base.steps=5")
    reference = run_group(2, arguments(tmp_path / "whole", overrides=short))
    assert reference.statuses == [0, 0], reference.stderr
    agent = ELASTIC.replace("PREPARE", repr(signalled(signal.SIGKILL, 12, rank=1)))
    outputs = tmp_path / "stdout", tmp_path / "stderr"
    process = start_command(arguments(tmp_path / "run", overrides=short), prepare=agent, outputs=outputs)
    process.join(300)
    stdout, stderr = (output.read_text() for output in outputs)
    assert process.exitcode == 0, stderr
    assert re.search(r"resuming latents at step (5|10)", stdout), stdout
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
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
