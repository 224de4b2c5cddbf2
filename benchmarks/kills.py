"""Runs that are killed at random times and resumed end in the same bits: how many of N do.

    python -m benchmarks kills [--runs 50] [--processes 2] [--kind ddp|fsdp] [--kills 2] [--elastic] [--seed 0]

Trains a small spec on noise with torchrun: once without interruption, then N times, killed with SIGKILL at `--kills`
random times, either the whole job or one of its processes, and resumed with the same command; with --elastic one
process at a time, after which torchrun's --max-restarts starts all of them again. Compares the exported
weights and all rows of the log. On the CPU. Exit status 1 if one differs.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ulzoo.files import tensor_file

SETTINGS = (
    "name=kills", "data={kind: image_folder, resolution: 16, num_classes: null}", "latent.channels=4",
    "train.latents.steps=60", "train.base.steps=40", "train.latents.batch_size=8", "train.base.batch_size=8",
    "train.latents.checkpoint_every=7", "train.base.checkpoint_every=7", "train.latents.log_every=1",
    "train.base.log_every=1", "train.latents.warmup_steps=5", "train.base.warmup_steps=5",
    "base.class_conditional=false",
    "train.latents.precision=fp32", "train.base.precision=fp32", "sample.base.steps=2", "sample.decoder.steps=2",
    "sample.base.sampler=ddim", "train.latents.optimizer=adamw", "train.base.optimizer=adamw",
)  # fmt: skip
VARYING = ("images_per_second", "data_wait")


def write_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 44), ("val", 4)):
        (root / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / split / f"{i}.png")


def command(root: Path, folder: Path, processes: int, kind: str, restarts: int = 0) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher += [f"--max-restarts={restarts}", "--monitor-interval=0.1", "-m"]
    settings = [*SETTINGS, f"data.root={root}", f"train.parallel.kind={kind}"]
    words = [word for setting in settings for word in ("--set", setting)]
    start = launcher if processes > 1 else ["-m"]
    return [sys.executable, *start, "ulzoo", "train", "emoji32_tiny", "--out", str(folder), "--device", "cpu", *words]


def workers(job: subprocess.Popen) -> list[int]:
    """The training processes of a job: torchrun's children, or the process itself."""
    listed = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in listed] or [job.pid]


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(arguments, env=environment, start_new_session=True, **quiet)  # type: ignore[call-overload]


def kill(job: subprocess.Popen, all_processes: bool) -> None:
    """Kill all processes at once, or one of the workers, after which torchrun ends the others."""
    pids = [job.pid, *workers(job)] if all_processes else [random.choice(workers(job))]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.wait()
    for pid in pids:  # workers run in other sessions
        entry = Path(f"/proc/{pid}")
        while all_processes and entry.exists() and "Z" not in (entry / "stat").read_text().split()[2]:
            time.sleep(0.01)


def kill_and_resume(arguments: list[str], kills: int, length: float) -> int:
    """Run a job that is killed at random times, `kills` times at most, and resumed; how often it was."""
    landed = 0
    for _ in range(kills):
        job = start(arguments)
        try:
            job.wait(random.uniform(0.2, 0.95) * length)
        except subprocess.TimeoutExpired:
            landed += 1
            kill(job, all_processes=random.random() < 0.5 or "torch.distributed.run" not in arguments)
    assert start(arguments).wait() == 0, "the run could not be resumed"
    return landed


def kill_and_restart(arguments: list[str], kills: int, length: float) -> int:
    """Run a job of torchrun; kill a process of it at random times, `kills` times or until it ends; how often it was."""
    job, landed = start(arguments), 0
    while landed < kills:
        try:
            job.wait(random.uniform(0.3, 0.9) * length)
            break
        except subprocess.TimeoutExpired:
            running = [pid for pid in workers(job) if pid != job.pid]  # none between the end and the next start
            if running:
                os.kill(random.choice(running), signal.SIGKILL)
                landed += 1
    assert job.wait() == 0, f"the run was not restarted after {landed} kills"
    return landed


def outcome(folder: Path) -> tuple[str, str]:
    """Digests of the exported weights and of the rows of the log."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key not in VARYING} for row in rows]
    return tensor_file.digest_of(folder / "model.safetensors"), hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kind", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--elastic", action="store_true", help="torchrun restarts the processes after each kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    same, landed = 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_images(root / "images")
        arguments = command(root / "images", root / "uninterrupted", options.processes, options.kind)
        started = time.monotonic()
        assert start(arguments).wait() == 0, "the uninterrupted run failed"
        length = time.monotonic() - started
        expected = outcome(root / "uninterrupted")
        for number in range(options.runs):
            folder = root / f"run{number}"
            restarts = options.kills if options.elastic else 0
            arguments = command(root / "images", folder, options.processes, options.kind, restarts)
            if options.elastic:
                landed += kill_and_restart(arguments, options.kills, length)
            else:
                landed += kill_and_resume([*arguments, "--resume"], options.kills, length)
            same += outcome(folder) == expected
            print(f"{same} of {number + 1} the same, {landed} kills", flush=True)
    sys.exit(same != options.runs)


if __name__ == "__main__":
    main()
