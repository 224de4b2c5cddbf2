"""A run: train a spec's stages in a directory, from scratch or from a checkpoint, then evaluate, draw and export."""

import json
import warnings
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ulzoo.data import Source
from ulzoo.data.fingerprint import describe_change, fingerprint
from ulzoo.data.storage.remote import RemotePath
from ulzoo.evaluation.mean_image import MeanImage
from ulzoo.files.atomic import write_text
from ulzoo.model.contract import NETWORKS, STAGES, Stage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model, compile_proxy, name_labels, open_source, stage_data
from ulzoo.registry.runs.callbacks import CallbackList, TrainingCallback
from ulzoo.registry.runs.cautions import mean_training_image, run_cautions, warmup_cautions
from ulzoo.registry.runs.encode import check_encoded
from ulzoo.registry.runs.export import (
    Export,
    check_label_names,
    load_averages,
    load_export,
    remove_untrained,
    save_export,
    set_latent_statistics,
    versions,
)
from ulzoo.registry.runs.initialize import InitReport, OpenModel, initialize, open_init
from ulzoo.registry.runs.loggers import Loggers, check_loggers
from ulzoo.registry.runs.pictures import draw_stage
from ulzoo.registry.runs.restore import check_store, restore
from ulzoo.registry.runs.run_directory import INIT, RunLock, check_folder, read_spec, remove_run, select_checkpoint
from ulzoo.registry.runs.stopwatch import Stopwatch
from ulzoo.registry.runs.validation import validate
from ulzoo.registry.spec.schema import Spec
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup
from ulzoo.training import config as configs
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.monitoring import LogRow
from ulzoo.training.optimizers import build_optimizer
from ulzoo.training.trainer import Trainer, TrainerOptions

EVALUATED_IMAGES = 512
EVALUATED_CLIPS = 64


@dataclass(frozen=True)
class RunOptions:
    """How a run starts and where it computes; none of this is part of the spec.

    Attributes:
        stage: a stage of the spec, which needs the earlier ones finished in the run directory; or all of them.
        resume: continue from the latest intact checkpoint, if there is one.
        fresh: remove the run in the directory and start from scratch.
        device: the device to train on.
        profile: write a profile of a few steps of each stage to the subfolder `profile`.
        remote: a folder in an object store that receives copies of all checkpoints; `resume` continues from a copy that
            is newer than the run directory's checkpoints.
        open_model: opens the model that the spec's `init` names; the default takes the path of an exported file,
            `ulzoo.registry.open_model` names, runs and addresses too.
    """

    stage: Stage | Literal["all"] = "all"
    resume: bool = False
    fresh: bool = False
    device: torch.device | str = "cpu"
    profile: bool = False
    remote: RemotePath | None = None
    open_model: OpenModel = lambda name: load_export(Path(name))

    def __post_init__(self) -> None:
        assert not (self.resume and self.fresh)


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: the run directory.
        results: metrics with their protocol.
        seconds: the time that all processes together have worked on the run.
    """

    folder: Path
    results: dict[str, Any]
    seconds: float

    @property
    def export(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"


def train(
    spec: Spec,
    folder: Path,
    options: RunOptions | None = None,
    *,
    callback: TrainingCallback | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    watch: Stopwatch | None = None,
) -> RunResult | None:
    """Train a spec in `folder`, evaluate the model on validation data, draw samples and export.

    Args:
        folder: the run directory, which is created once all checks have passed.
        options: stages, resuming, device; the defaults start a new run of all stages on the CPU.
        callback: receives the progress.
        processes: the processes that train together; the main one evaluates, draws and exports.
        watch: counts the time of the run, if its caller has started to; saved in the main process.

    Returns:
        The result in the main process, None in the others.

    Raises:
        ValueError: the spec, the data or the state of the folder do not permit the run; nothing was written.
        NonFiniteLoss: training diverged; the last checkpoint is kept.
    """
    lock, options = RunLock(folder), options or RunOptions()
    callbacks: list[TrainingCallback] = [callback] if callback else []
    if processes.is_main:
        callbacks.append(Loggers(folder, spec))
    watch = watch or Stopwatch(folder, restart=options.fresh)
    try:
        return _train(spec, lock, options, CallbackList(callbacks), processes, watch)
    finally:
        if lock.is_held:
            watch.save()
        lock.release()


def _train(
    spec: Spec,
    lock: RunLock,
    options: RunOptions,
    callback: TrainingCallback,
    processes: ProcessGroup,
    watch: Stopwatch,
) -> RunResult | None:
    folder, stages = lock.folder, spec.select_stages(options.stage)
    run_spec = None if options.fresh else read_spec(folder)
    spec, source = processes.run_on_all_ranks(partial(open_init, spec, options.open_model, run_spec))
    checkpoint = _agree_on_checkpoint(spec, lock, stages, options, processes, callback)
    model, sources, validation, report = processes.run_on_all_ranks(
        lambda: _prepare(spec, stages, checkpoint, options, processes, source)
    )
    identities = processes.run_on_all_ranks(
        lambda: {path: fingerprint(images).identity for path, images in sources.items()}
    )
    if checkpoint and processes.is_main:
        _warn_of_other_images(checkpoint, identities.get(stage_data(spec, checkpoint.stage)[1]))
    processes.run_on_all_ranks(lambda: _begin_run(spec, lock, options, processes))
    if options.resume and checkpoint:
        callback.on_note(f"resuming {checkpoint.stage} at step {checkpoint.step}")
    elif options.resume:
        callback.on_note(f"nothing to resume in {folder}, starting")
    if report:
        callback.on_init(report)
    if report and processes.is_main and not checkpoint:
        write_text(folder / INIT, json.dumps(report.to_dict(), indent=1) + "\n")

    def on_step(step: int, row: LogRow | None) -> None:
        if processes.is_main:
            watch.tick()
        callback.on_step(step, row)

    for path, message in warmup_cautions(spec, stages) if processes.is_main else ():
        warnings.warn(str(spec.error(path, message)), stacklevel=1)
    resumed = checkpoint if checkpoint and checkpoint.stage in stages else None
    trainer_options = TrainerOptions(
        identity={
            "spec": spec.to_dict(),
            "spec_hash": spec.hash,
            "label_names": list(validation.label_names),
            "versions": versions(),
        },
        profile=options.profile and processes.is_main,
        processes=processes,
        parallel=spec.train.parallel,
        remote=options.remote,
        on_step=on_step,
        on_checkpoint=callback.on_checkpoint,
    )
    for stage in stages[stages.index(resumed.stage) if resumed else 0 :]:
        config: configs.StageConfig = getattr(spec.train, stage)
        _, path = stage_data(spec, stage)
        identity = {**trainer_options.identity, "fingerprint": identities[path]}
        stage_options = replace(trainer_options, identity=identity, proxy=compile_proxy(spec, stage))
        trainer = Trainer(model, stage, config, sources[path], folder, stage_options)
        if resumed and resumed.stage == stage:
            trainer.resume(resumed)
        callback.on_stage(stage, config, trainer.step)
        trainer.run()
        if trainer.sharded:
            weights, model = trainer.weights(), compile_model(spec, options.device, pretrained=False)
            model.load_state_dict(weights)
            name_labels(model, validation.label_names)
        if processes.is_main:
            for picture in draw_stage(model, validation, folder / "samples", stage):
                callback.on_picture(picture.stem, picture)
        processes.wait_for_main()
    if not processes.is_main:
        return None

    trained = spec.stages_up_to(trainer.stage)
    remove_untrained(model, trained)
    mean_image = mean_training_image(spec, sources.get("data"))
    results = _evaluate(spec, model, validation, mean_image, callback)
    if cautions := [*run_cautions(spec, trained, model, folder), *results.get("cautions", [])]:
        results["cautions"] = cautions
    results["trained"] = {"stage": trainer.stage, "step": trainer.step, "spec_hash": spec.hash}
    write_text(folder / "figures.json", json.dumps(results, indent=1) + "\n")
    set_latent_statistics(model, results)
    save_export(folder / "model.safetensors", model, spec, results)
    callback.on_end(results)
    return RunResult(folder, results, watch.seconds)


def _agree_on_checkpoint(
    spec: Spec,
    lock: RunLock,
    stages: tuple[Stage, ...],
    options: RunOptions,
    processes: ProcessGroup,
    callback: TrainingCallback,
) -> Checkpoint | None:
    """Select the checkpoint in the main process, which may be the only one to see the folder's latest state."""

    def select() -> Checkpoint | None:
        if not processes.is_main:
            return None
        check_folder(lock.folder)
        if options.remote:
            check_store(options.remote, resume=options.resume)
        if lock.exists or (options.remote and options.resume):  # of another process, or of one that was killed
            lock.acquire()
        if options.remote and options.resume and (restored := restore(lock.folder, options.remote)):
            callback.on_note(f"downloaded {restored.name} from {options.remote}")
        return select_checkpoint(lock.folder, spec, stages, resume=options.resume, fresh=options.fresh)

    return processes.all_gather(processes.run_on_all_ranks(select))[0]


def _begin_run(spec: Spec, lock: RunLock, options: RunOptions, processes: ProcessGroup) -> None:
    """In the main process: lock the folder, remove the previous run if asked to, and write the spec."""
    if processes.is_main:
        lock.acquire()
        if options.fresh:
            remove_run(lock.folder)
        write_text(lock.folder / "spec.yaml", spec.to_yaml())
        spec.record_data_paths(lock.folder)


def _prepare(
    spec: Spec,
    stages: tuple[Stage, ...],
    checkpoint: Checkpoint | None,
    options: RunOptions,
    processes: ProcessGroup,
    source: Export | None,
) -> tuple[UnifiedLatents, dict[str, Source], Source, InitReport | None]:
    """Check all that can be checked before training, without writing anything.

    Returns:
        The model with the weights of earlier stages, the training data by key path, the validation data, and what was
        loaded of the model `source`.
    """
    for stage in stages:
        config: configs.StageConfig = getattr(spec.train, stage)
        try:
            build_optimizer(nn.Linear(1, 1), config)
        except ValueError as error:
            raise spec.error(f"train.{stage}.optimizer", str(error)) from None
        spec.check_batch_size(stage, processes)
    check_loggers(spec)
    stage_by_path = {stage_data(spec, stage)[1]: stage for stage in stages}  # stages may share their data
    sources = {path: open_source(spec, "train", stage) for path, stage in stage_by_path.items()}
    validation = open_source(spec, "val")
    model = compile_model(spec, options.device)
    name_labels(model, validation.label_names)
    report = None
    if spec.init and not (checkpoint and checkpoint.stage in stages):  # such a checkpoint has all weights
        networks = list(chain(*(STAGES[stage] for stage in stages))) if checkpoint else NETWORKS
        report = initialize(model, spec, source, networks)
    if checkpoint:
        check_label_names(checkpoint, validation.label_names)
        earlier = spec.stages[: spec.stages.index(checkpoint.stage)]
        for network in dict.fromkeys([*chain(*(STAGES[stage] for stage in earlier)), *spec.frozen]):
            getattr(model, network).load_state_dict(checkpoint.read(f"model.{network}."))
        if checkpoint.stage not in stages:
            load_averages(model, checkpoint)
    check_encoded(spec, model, stages, sources)
    return model, sources, validation, report


def _warn_of_other_images(checkpoint: Checkpoint, identity: dict[str, Any] | None) -> None:
    """Warn if the training images, if they are opened, are not those that the checkpoint was trained on."""
    before = checkpoint.metadata.get("fingerprint")
    if identity is not None and before and (changes := describe_change(before, identity)):
        warnings.warn(
            f"{checkpoint.folder}: its training images have changed since ({'; '.join(changes)}); training continues "
            "on the present ones",
            stacklevel=2,
        )


def _evaluate(
    spec: Spec, model: UnifiedLatents, validation: Source, mean_image: MeanImage | None, callback: TrainingCallback
) -> dict[str, Any]:
    """Metrics and protocol on examples of the validation data, and the mean training image."""
    video = model.contract.video
    callback.on_note(f"evaluating on validation {'clips' if video else 'images'}")
    limit = EVALUATED_CLIPS if video else EVALUATED_IMAGES
    return validate(spec, model, validation, mean_image, limit=limit, on_progress=callback.on_evaluation)
