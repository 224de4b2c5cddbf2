"""How many of the project's files a reader must open to follow a training step, a network's forward pass, a sample.

    python -m benchmarks reading [--out FOLDER]

It traces one real step of `emoji32_tiny` (`Trainer._step`: from a batch to updated weights and averages), one forward
pass of its base and one sample, each after a first, untraced call, and counts the files whose code is executed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import ulzoo
from ulzoo.data import batches
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.training.trainer import Trainer, TrainerOptions

ROOT = Path(__file__).parents[1]
PACKAGE = Path(ulzoo.__file__).parent
GOALS = {"training step": 16, "forward pass": 5, "sample": 9}


def executed_files(call: Callable[[], object]) -> list[str]:
    """The files of `ulzoo` whose code runs during the call, relative to the package, sorted."""
    files: set[str] = set()

    def trace(frame: FrameType, event: str, arg: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE) or (ROOT / "registry") in path.parents:
            files.add(str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT)))

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return sorted(files)


def measure() -> dict[str, list[str]]:
    """What is traced -> the files it executes."""
    torch.set_num_threads(1)
    spec = load_spec("emoji32_tiny")
    model, source, config = compile_model(spec, "cpu"), open_source(spec, "train"), spec.train.latents
    assert config is not None
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, "latents", config, source, Path(folder), TrainerOptions(identity={}))
        stream = batches(source, config.batch_size, seed=0)
        trainer._step(next(stream))
        trainer.step += 1
        batch = next(stream)
        step = executed_files(lambda: trainer._step(batch))
    model.eval()
    assert model.base is not None
    network, x_t = model.base.network, torch.randn(2, *model.contract.latent_shape)
    network(x_t, torch.zeros(2))
    model.sample(2)
    return {
        "training step": step,
        "forward pass": executed_files(lambda: network(x_t, torch.zeros(2))),
        "sample": executed_files(lambda: model.sample(2)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the result")
    options = parser.parse_args()
    measured = measure()
    for what, files in measured.items():
        print(f"{what}: {len(files)} files (goal: at most {GOALS[what]})\n  " + "\n  ".join(files))
    result = {what: {"files": len(files), "goal": GOALS[what], "names": files} for what, files in measured.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "reading.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(any(len(files) > GOALS[what] for what, files in measured.items()))


if __name__ == "__main__":
    sys.exit(main())
