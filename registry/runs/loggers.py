"""Experiment trackers as callbacks of a training: TensorBoard, Weights & Biases, Trackio, and those of other packages.

A logger that fails, as without a network, is reported once and left out from then on: it never ends a training.
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ulzoo.model.contract import Stage
from ulzoo.registry.runs.callbacks import LOG, CallbackList, TextLog, TrainingCallback
from ulzoo.registry.spec.schema import Spec
from ulzoo.runtime.messages import one_line, suggest
from ulzoo.training import config as configs
from ulzoo.training.monitoring import LogRow

GROUP = "ulzoo.loggers"
"""Entry points of third-party loggers, (folder, spec) -> TrainingCallback."""
PROJECT = "ulzoo"

Logger = Callable[[Path, Spec], TrainingCallback]


class TensorBoardLogger(TrainingCallback):
    """TensorBoard events in `folder`/tensorboard/STAGE; steps that are trained again replace their events."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.folder, self.last_step = folder / "tensorboard", 0
        self.writer: Any = None

    def on_stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._close()
        self.writer = SummaryWriter(self.folder / stage, purge_step=start + 1 if start else None)

    def on_step(self, step: int, row: LogRow | None) -> None:
        self.last_step = step
        for name, value in (row or {}).items():
            if isinstance(value, float):
                self.writer.add_scalar(name, value, step)

    def on_picture(self, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            self.writer.add_image(name, np.asarray(picture.convert("RGB")), self.last_step, dataformats="HWC")

    def on_end(self, results: Mapping[str, Any]) -> None:
        for name, value in numbers(results).items():
            self.writer.add_scalar(f"evaluation/{name}", value, self.last_step)
        self._close()

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class TrackerLogger(TrainingCallback):
    """A run of Weights & Biases, or of Trackio, whose interface is the same; its step counts through all stages.

    A resumed training continues the run of its directory.

    Args:
        package: "wandb" or "trackio".
    """

    def __init__(self, package: str, folder: Path, spec: Spec) -> None:
        self.module, self.spec, self.before, self.step = import_module(package), spec, 0, 0
        identity = hashlib.sha256(f"{folder.absolute()} {spec.hash}".encode()).hexdigest()[:16]
        names = {"id": identity, "name": folder.name} if package == "wandb" else {"name": f"{folder.name}-{identity}"}
        self.module.init(project=PROJECT, config=spec.to_dict(), resume="allow", **names)

    def on_stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        stages = self.spec.stages
        earlier = stages[: stages.index(stage)]
        self.before = sum(getattr(self.spec.train, name).steps for name in earlier)
        self.step = self.before + start

    def on_step(self, step: int, row: LogRow | None) -> None:
        self.step = self.before + step
        if row is not None:
            self._log({f"{row['stage']}/{name}": value for name, value in row.items() if isinstance(value, float)})

    def on_picture(self, name: str, path: Path) -> None:
        self._log({name: self.module.Image(str(path))})

    def on_end(self, results: Mapping[str, Any]) -> None:
        self._log({f"evaluation/{name}": value for name, value in numbers(results).items()})
        self.module.finish()

    def _log(self, values: dict[str, Any]) -> None:
        self.module.log(values, step=self.step)


LOGGERS: dict[str, tuple[str, Logger]] = {
    "tensorboard": ("tensorboard", TensorBoardLogger),
    "wandb": ("wandb", lambda folder, spec: TrackerLogger("wandb", folder, spec)),
    "trackio": ("trackio", lambda folder, spec: TrackerLogger("trackio", folder, spec)),
}
"""Name -> package that it needs, and the logger."""


class Loggers(CallbackList):
    """The log as text and the loggers of a spec, which open at the first call.

    Args:
        folder: the run directory.
        spec: names them.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        super().__init__([])
        self.folder, self.spec = folder, spec
        self.open: dict[str, TrainingCallback | None] = {LOG: TextLog(folder), **dict.fromkeys(spec.train.loggers)}

    def _each(self, call: Callable[[TrainingCallback], None]) -> None:
        for name, logger in list(self.open.items()):
            try:
                logger = self.open[name] = logger or _factory(name)(self.folder, self.spec)
                call(logger)
            except Exception as error:
                del self.open[name]
                reason = one_line(f"{type(error).__name__}: {error}")
                warnings.warn(f"the logger {name} failed and is left out: {reason}", stacklevel=2)


def _factory(name: str) -> Logger:
    if name in LOGGERS:
        return LOGGERS[name][1]
    (entry,) = (entry for entry in entry_points(group=GROUP) if entry.name == name)
    factory: Logger = entry.load()
    return factory


def check_loggers(spec: Spec) -> None:
    """Raise SpecError unless all loggers of the spec exist and their packages are installed."""
    third_party = {entry.name for entry in entry_points(group=GROUP)}
    for name in spec.train.loggers:
        if name not in LOGGERS and name not in third_party:
            choices = [*LOGGERS, *sorted(third_party)]
            raise spec.error("train.logger", f"there is no logger {name!r}{suggest(name, choices)}")
        if name in LOGGERS and not find_spec(package := LOGGERS[name][0]):
            key = "logger" if spec.train.logger else "tensorboard"
            raise spec.error(f"train.{key}", f"needs the package {package}: pip install 'ulzoo[{package}]'")


def numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are single numbers."""
    return {name: value for name, value in results["figures"].items() if isinstance(value, float)}
