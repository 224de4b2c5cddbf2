"""A run: from a spec and an empty directory to a trained, measured and exported model, or from where it was stopped."""

import json
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ulzoo.data import Source, in_order
from ulzoo.evaluation import measure, save_grid
from ulzoo.files.atomic import write_text
from ulzoo.model.contract import STAGES, Stage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model, stage_data
from ulzoo.registry.runs.encode import check_encoded
from ulzoo.registry.runs.export import leave_untrained, save_export, versions
from ulzoo.registry.spec.components import DATASETS
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec, changed_on_resume
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup
from ulzoo.training import config as configs
from ulzoo.training.checkpointing import Checkpoint, CheckpointManager
from ulzoo.training.monitoring import LogRow
from ulzoo.training.optimizers import build_optimizer
from ulzoo.training.trainer import Trainer
from ulzoo.visualization.video_samples import reconstructed_clips, sampled_clips, save_clips

OURS = (
    "spec.yaml",
    "metrics.jsonl",
    "left_out.txt",
    "figures.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "checkpoints",
    "samples",
    "profile",
    "tensorboard",
)
EVALUATED_IMAGES = 512
EVALUATED_CLIPS = 64
DRAWN_CLIPS = 8


class TrainingCallback:
    """What a display may want to hear; this one hears nothing."""

    def stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None: ...

    def step(self, step: int, row: LogRow | None) -> None: ...

    def note(self, message: str) -> None: ...

    def measured(self, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Result:
    """Where a run left its work, and its figures with their protocol."""

    folder: Path
    results: dict[str, Any]

    @property
    def export(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"


def open_source(spec: Spec, split: str, stage: Stage | None = None) -> Source:
    """One split of the spec's data, or of what `stage` is trained on.

    Raises:
        SpecError: the data is missing or damaged.
    """
    config, path = stage_data(spec, stage)
    try:
        return DATASETS.build(config, split)
    except ValueError as error:
        raise spec.error(path, str(error)) from None


def train(
    spec: Spec,
    folder: Path,
    *,
    stage: Stage | Literal["all"] = "all",
    resume: bool = False,
    fresh: bool = False,
    device: torch.device | str = "cpu",
    watch: TrainingCallback | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    profile: bool = False,
) -> Result | None:
    """Train a spec in `folder`, evaluate on validation images, export.

    Args:
        spec: what to train.
        folder: the run directory; made if need be, after everything that can be checked was checked.
        stage: one of the spec's, which needs those before it finished in `folder`, or all of them.
        resume: go on from the newest whole checkpoint.
        fresh: remove an earlier run first.
        device: where to train.
        watch: told of progress.
        processes: those that train together; the first of them evaluates and exports.
        profile: write where the time of a few steps of each stage goes, into `folder`/profile.

    Returns:
        What came of it; None in the other processes.

    Raises:
        ValueError: the spec, the data or the folder's state do not allow it; nothing was written.
        NonFiniteLoss: training diverged; the last checkpoint is kept.
    """
    assert not (resume and fresh)
    watch = watch or TrainingCallback()
    stages, order = spec.select_stages(stage), spec.stages
    found = processes.run_on_all_ranks(
        lambda: _found(folder, spec, stages, resume, fresh) if processes.is_main else None
    )
    done: Checkpoint | None = processes.all_gather(found)[0]
    model, sources, held_out = processes.run_on_all_ranks(lambda: _start(spec, stages, done, device, processes))
    if processes.is_main:
        if fresh:
            _clear(folder)
        write_text(folder / "spec.yaml", spec.to_yaml())
    processes.wait_for_main()
    if resume:
        watch.note(f"resuming {done.stage} at step {done.step}" if done else f"nothing to resume in {folder}, starting")
    identity = {"spec": spec.to_dict(), "spec_hash": spec.hash, "versions": versions()}
    if done and done.stage not in stages:
        done = None
    for name in stages:
        if done and order.index(done.stage) > order.index(name):
            continue
        config: configs.StageConfig = getattr(spec.train, name)
        source = sources[stage_data(spec, name)[1]]
        options: dict[str, Any] = {"tensorboard": spec.train.tensorboard, "profile": profile and processes.is_main}
        options |= {"on_step": watch.step, "processes": processes, "parallel": spec.train.parallel}
        trainer = Trainer(model, name, config, source, folder, identity, **options)
        if done and done.stage == name:
            trainer.resume(done)
        watch.stage(name, config, trainer.step)
        trainer.run()
        if trainer.sharded:
            weights, model = trainer.weights(), compile_model(spec, device, pretrained=False)
            model.load_state_dict(weights)
        if processes.is_main:
            _draw(model, held_out, folder / "samples", name)
        processes.wait_for_main()
    if not processes.is_main:
        return None
    leave_untrained(model, order[: order.index(stages[-1]) + 1])
    video = model.contract.video
    watch.note(f"evaluating on validation {'clips' if video else 'images'}")
    total = min(EVALUATED_CLIPS if video else EVALUATED_IMAGES, len(held_out))
    results = measure(model, held_out, data=described_data(spec), limit=total, on_image=watch.measured)
    results["trained"] = {"stage": trainer.stage, "step": trainer.step, "spec_hash": spec.hash}
    write_text(folder / "figures.json", json.dumps(results, indent=1) + "\n")
    save_export(folder / "model.safetensors", model, spec, results)
    return Result(folder, results)


def _start(
    spec: Spec, stages: tuple[Stage, ...], done: Checkpoint | None, device: torch.device | str, processes: ProcessGroup
) -> tuple[UnifiedLatents, dict[str, Source], Source]:
    """The model with what was trained before, data by key path, and validation data.

    Checks everything that can be; writes nothing.
    """
    for name in stages:
        config: configs.StageConfig = getattr(spec.train, name)
        try:
            build_optimizer(nn.Linear(1, 1), config)
        except ValueError as error:
            raise spec.error(f"train.{name}.optimizer", str(error)) from None
        try:
            processes.local_batch_size(config.batch_size, config.accumulate)
        except ValueError as error:
            raise spec.error(f"train.{name}.batch_size", str(error)) from None
    if spec.train.tensorboard and not find_spec("tensorboard"):
        raise spec.error("train.tensorboard", "needs the package tensorboard: pip install 'ulzoo[tensorboard]'")
    of = {stage_data(spec, name)[1]: name for name in stages}  # stages with the same data share it
    sources = {path: open_source(spec, "train", name) for path, name in of.items()}
    held_out = open_source(spec, "val")
    model = compile_model(spec, device)
    if done:
        order = spec.stages
        for network in chain(*(STAGES[earlier] for earlier in order[: order.index(done.stage)])):
            getattr(model, network).load_state_dict(done.read(f"model.{network}."))
        if done.stage not in stages:
            _load_averages(model, done)
    check_encoded(spec, model, stages, sources)
    return model, sources, held_out


def restore(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> tuple[UnifiedLatents, Spec]:
    """The model that a training checkpoint stands for, with averaged weights; without what later stages train."""
    spec = spec_from_dict(checkpoint.metadata["spec"])
    model = compile_model(spec, device, pretrained=False)
    model.load_state_dict(checkpoint.read("model."))
    _load_averages(model, checkpoint)
    leave_untrained(model, spec.stages[: spec.stages.index(checkpoint.stage) + 1])
    return model, spec


def _found(folder: Path, spec: Spec, stages: tuple[Stage, ...], resume: bool, fresh: bool) -> Checkpoint | None:
    """The checkpoint to go on from, after the folder's state was found to allow what was asked."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, not a run directory")
    order = spec.stages
    before: Stage | None = order[order.index(stages[0]) - 1] if stages[0] != order[0] else None
    if fresh:
        if before:
            raise ValueError(f"{folder}: --fresh would remove the stage {before} that --stage {stages[0]} needs")
        return None
    checkpoints = CheckpointManager(folder / "checkpoints")
    reached = {stage for stage, _, _ in checkpoints.list_checkpoints()}
    if later := [stage for stage in order[order.index(stages[-1]) + 1 :] if stage in reached]:
        raise ValueError(
            f"{folder}: its stage {later[0]} stands on {stages[-1]}; leave out --stage, or use another --out"
        )
    standing = before is not None and stages[0] not in reached  # on the stage before, which must be finished
    if standing and before not in reached:
        raise ValueError(f"{folder}: no stage {before} to build on; run `ulzoo train … --stage {before}` there first")
    if reached and not resume and not standing:
        raise ValueError(f"{folder}: holds a run already; add --resume to go on with it or --fresh to start over")
    done = checkpoints.latest(before if standing else stages[-1] if len(stages) == 1 else None)
    if done is None:
        return None
    old = spec_from_dict(done.metadata["spec"])
    changes = changed_on_resume(old, spec)
    if standing:
        free = [
            f"{part}." for stage in order[order.index(stages[0]) :] for part in (STAGES[stage][-1], f"train.{stage}")
        ]
        changes = [change for change in changes if not change.startswith((*free, "name:"))]
        if done.step < getattr(old.train, done.stage).steps:
            raise ValueError(f"{folder}: its stage {before} stopped at step {done.step}; finish it (--stage {before})")
    for stage in order[: order.index(done.stage) + standing]:
        was, asked = getattr(old.train, stage).steps, getattr(spec.train, stage).steps
        if was != asked:
            changes.append(f"train.{stage}.steps: {was} -> {asked}")
    if changes:
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        raise ValueError(f"{folder}: its run had another spec, {changes[0]}{more}; use --fresh or another --out")
    if done.step > (steps := getattr(spec.train, done.stage).steps):
        raise ValueError(f"{folder}: has {done.step} steps already, train.{done.stage}.steps asks for {steps}")
    return done


def _load_averages(model: UnifiedLatents, checkpoint: Checkpoint) -> None:
    """Put the averaged weights of the checkpoint's stage into the model; its other networks stay as they are."""
    averages = checkpoint.read("ema.")
    for name in STAGES[checkpoint.stage]:
        prefix = f"{name}."
        network = {key.removeprefix(prefix): value for key, value in averages.items() if key.startswith(prefix)}
        getattr(model, name).load_state_dict(network)


def _clear(folder: Path) -> None:
    """Remove what a run writes and nothing else."""
    parts = [path.name for path in folder.glob("model-*-of-*.safetensors")]  # of a large model
    for name in (*OURS, *parts):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _draw(model: UnifiedLatents, source: Source, folder: Path, stage: Stage) -> None:
    """Pictures of what the stage learned: reconstructions of validation images, or samples."""
    reconstructs = stage != "base"
    if model.contract.video:
        name = "reconstructions" if reconstructs else "samples"
        bands = (reconstructed_clips if reconstructs else sampled_clips)({name: model}, source, DRAWN_CLIPS)
        save_clips(folder / f"{name}.png", bands, model.contract)
        return
    if reconstructs:
        batch = next(in_order(source, 12))
        x, generator = batch["x"].to(model.device), torch.Generator(model.device).manual_seed(0)
        made = model.reconstruct(x, generator=generator, labels=batch["label"], text=batch["text"])
        save_grid(folder / "reconstructions.png", [("validation images", x), ("reconstructions", made)])
    if not reconstructs or model.contract.single_stage:
        text = next(in_order(source, 48))["text"]
        generator = torch.Generator(model.device).manual_seed(0)
        samples = model.sample(48 if text is None else len(text.mask), generator=generator, text=text)
        rows = [("" if i else "samples", row) for i, row in enumerate(samples.split(12))]
        save_grid(folder / "samples.png", rows)


def described_data(spec: Spec) -> dict[str, Any]:
    """The data section for a protocol, without what differs between machines."""
    return {key: value for key, value in spec.data.model_dump(mode="json").items() if key not in ("root", "download")}
