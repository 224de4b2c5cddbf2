"""What a training calls while it runs: the interface of displays, logs and loggers, and the log as text."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ulzoo.model.contract import Stage
from ulzoo.registry.runs.initialize import InitReport
from ulzoo.training import config as configs
from ulzoo.training.monitoring import LogRow

LOG = "train.log"


class TrainingCallback:
    """Callback of `train`, called in the main process; the methods of this base class do nothing."""

    def on_init(self, report: InitReport) -> None:
        """Called with what was loaded of the model that the spec's `init` names, before the first stage."""

    def on_stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        """Called before a stage is trained from step `start`."""

    def on_step(self, step: int, row: LogRow | None) -> None:
        """Called after every step, with the row of `metrics.jsonl` if one was written."""

    def on_checkpoint(self, step: int) -> None:
        """Called when a checkpoint of the present stage begins to be written."""

    def on_picture(self, name: str, path: Path) -> None:
        """Called with a picture of "reconstructions" or "samples", after the stage that it shows."""

    def on_note(self, message: str) -> None:
        """Called with messages for the user."""

    def on_evaluation(self, done: int, total: int) -> None:
        """Called during evaluation with the number of examples processed so far, and of all."""

    def on_end(self, results: Mapping[str, Any]) -> None:
        """Called with the metrics and their protocol, after the last stage."""


class CallbackList(TrainingCallback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[TrainingCallback]) -> None:
        self.callbacks = callbacks

    def on_init(self, report: InitReport) -> None:
        self._each(lambda callback: callback.on_init(report))

    def on_stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        self._each(lambda callback: callback.on_stage(stage, config, start))

    def on_step(self, step: int, row: LogRow | None) -> None:
        self._each(lambda callback: callback.on_step(step, row))

    def on_checkpoint(self, step: int) -> None:
        self._each(lambda callback: callback.on_checkpoint(step))

    def on_picture(self, name: str, path: Path) -> None:
        self._each(lambda callback: callback.on_picture(name, path))

    def on_note(self, message: str) -> None:
        self._each(lambda callback: callback.on_note(message))

    def on_evaluation(self, done: int, total: int) -> None:
        self._each(lambda callback: callback.on_evaluation(done, total))

    def on_end(self, results: Mapping[str, Any]) -> None:
        self._each(lambda callback: callback.on_end(results))

    def _each(self, call: Callable[[TrainingCallback], None]) -> None:
        for callback in self.callbacks:
            call(callback)


class TextLog(TrainingCallback):
    """Appends to `train.log` in the run directory: the rows of `metrics.jsonl` and all messages, with their times.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def on_init(self, report: InitReport) -> None:
        self.write(f"initialised: {json.dumps(report.to_dict())}")

    def on_stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        self.steps = config.steps
        self.write(f"stage {stage} from step {start} to {config.steps}")

    def on_step(self, step: int, row: LogRow | None) -> None:
        if row is not None:
            self.write(f"{row['stage']} {step}/{self.steps}  {format_row(row)}")

    def on_checkpoint(self, step: int) -> None:
        self.write(f"checkpoint at step {step}")

    def on_picture(self, name: str, path: Path) -> None:
        self.write(f"{name}: {path}")

    def on_note(self, message: str) -> None:
        self.write(message)

    def on_end(self, results: Mapping[str, Any]) -> None:
        figures = {name: value for name, value in results["figures"].items() if isinstance(value, float)}
        self.write("  ".join(f"{name} {value:.6g}" for name, value in figures.items() if math.isfinite(value)))

    def write(self, line: str) -> None:
        """Append a line."""
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")


def format_row(row: LogRow, kind: str = "images", utilisations: Mapping[str, float] | None = None) -> str:
    """A row of `metrics.jsonl` as text, with the model FLOPs utilisation (MFU) of stages in `utilisations`."""
    parts = [f"{row['images_per_second']:.1f} {kind}/s"]
    if "rate_bits_per_pixel" in row:
        parts += [f"rate {row['rate_bits_per_pixel']:.4f} bits/pixel", f"distortion {row['distortion']:.4f}"]
    else:
        parts += [f"loss {row['loss']:.4f}"]
    parts.append(f"data wait {row['data_wait']:.0%}")
    if utilisations and row["stage"] in utilisations:
        parts.append(f"MFU {row['images_per_second'] * utilisations[row['stage']]:.0%}")
    return "  ".join(parts)
