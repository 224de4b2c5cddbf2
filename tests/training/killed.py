"""Training in a process that is killed with SIGKILL.

A job is {"spec", "folder", "stage", "resume", "kill"}; `kill` is ["after", seconds], counted from the first step,
["at", stage, step], ["writing", n, "half" or "whole"], the n-th checkpoint, before it is in its place, ["between"],
the stages, or null.
"""

import os
import signal
import threading
import time
from pathlib import Path

import torch

import ulzoo.registry.runs.train as run
import ulzoo.training.checkpointing as checkpoints
from ulzoo.registry import spec_from_dict


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class Killer(run.TrainingCallback):
    def __init__(self, kill: list) -> None:
        self.kill, self.started = kill, False

    def on_step(self, step: int, row: object) -> None:
        if self.kill[0] == "after" and not self.started:
            self.started = True
            threading.Timer(self.kill[1], die).start()
        if self.kill[0] == "at" and self.kill[2] == step and self.kill[1] == self.where:
            die()

    def on_stage(self, stage: str, config: object, start: int) -> None:
        self.where = stage


def arm(kill: list) -> None:
    if kill[0] == "between":
        run.draw_stage = lambda *_: die()
    if kill[0] == "writing":
        write, count = checkpoints.write_checkpoint, iter(range(1, 1000))

        def write_and_die(state: object, folder: Path, group: None) -> None:
            write(state, folder, group)
            if next(count) == kill[1]:
                if kill[2] == "half":
                    (folder / "checkpoint.json").unlink()
                    shard = next(folder.glob("*.safetensors"))
                    os.truncate(shard, shard.stat().st_size // 2)
                die()

        checkpoints.write_checkpoint = write_and_die


def main(job: dict) -> None:
    torch.set_num_threads(1)
    kill = job["kill"] or ["never"]
    arm(kill)
    options = run.RunOptions(stage=job["stage"], resume=job["resume"])
    run.train(spec_from_dict(job["spec"]), Path(job["folder"]), options, callback=Killer(kill))
