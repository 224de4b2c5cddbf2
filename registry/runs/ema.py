"""Models with averages of any length, synthesised from the snapshots of a run (`train.*.posthoc_ema`)."""

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulzoo.data import Source
from ulzoo.evaluation.execution import ProgressCallback
from ulzoo.evaluation.mean_image import MeanImage
from ulzoo.files.tensor_file import DamagedFile
from ulzoo.model.contract import Stage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import open_source
from ulzoo.registry.runs.cautions import mean_training_image
from ulzoo.registry.runs.export import load_trained, matching_results, restore, set_latent_statistics
from ulzoo.registry.runs.run_directory import EMA
from ulzoo.registry.runs.validation import validate
from ulzoo.registry.spec.data_paths import read_data_paths
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.config import PosthocEmaConfig
from ulzoo.training.posthoc_ema import PREFIX, SNAPSHOTS, PowerProfile, coefficients, profile_error

CAUTIONED_ERROR = 0.05


class RunAverages:
    """The snapshots of one stage of a run, which may still be training.

    Args:
        run: a run directory.
        stage: one with snapshots; the last one if None.

    Raises:
        ValueError: the run has no snapshots of the stage, or no checkpoint of it.
    """

    def __init__(self, run: Path, stage: Stage | None = None):
        paths = CheckpointManager(run / SNAPSHOTS).list_checkpoints()
        stage = stage or (paths[-1].stage if paths else None)
        self.snapshots: list[Checkpoint] = []
        for path in paths:
            try:
                if path.stage == stage:
                    self.snapshots.append(Checkpoint.open(path.folder))
            except DamagedFile as error:
                warnings.warn(f"{error}; using the other snapshots", stacklevel=2)
        checkpoint = CheckpointManager(run / "checkpoints").latest(stage)
        if stage is None or not self.snapshots or checkpoint is None:
            where = f"of the stage {stage}" if stage else "of averages"
            raise ValueError(f"{run}: has no snapshots {where}; train.STAGE.posthoc_ema saves them during training")
        self.run, self.stage, self.checkpoint = run, stage, checkpoint
        self.step = self.snapshots[-1].step
        self.spec = spec_from_dict(checkpoint.metadata["spec"]).with_data_paths(read_data_paths(run))

    def path(self, length: float, folder: Path | None = None) -> Path:
        """The file to export an average to, in `folder` or in that of the run."""
        return (folder or self.run / EMA) / f"{self.stage}-{length:g}.safetensors"

    def model(self, length: float, device: torch.device | str = "cpu") -> UnifiedLatents:
        """The model as the stage left it, with the average of relative length `length` at the last snapshot's step."""
        model, _ = restore(self.checkpoint, device)
        load_trained(model, self.stage, self.synthesize(length))
        if "encoder" not in model.contract.trained_networks(self.stage):
            set_latent_statistics(model, matching_results(self.checkpoint))
        return model.eval()

    def validation(self) -> Source:
        """The validation data of the run. Raises SpecError if it is missing."""
        return open_source(self.spec, "val")

    def measure(
        self, model: UnifiedLatents, source: Source, limit: int, on_progress: ProgressCallback
    ) -> dict[str, Any]:
        """Metrics and protocol of a model on `limit` examples spread over all, as after a training."""
        return validate(self.spec, model, source, self._mean_image, limit=limit, on_progress=on_progress)

    @cached_property
    def _mean_image(self) -> MeanImage | None:
        return mean_training_image(self.spec)

    def synthesize(self, length: float) -> dict[str, Tensor]:
        """The average of the trained networks; read snapshot by snapshot and summed in float64."""
        config: PosthocEmaConfig = getattr(self.spec.train, self.stage).posthoc_ema
        profiles = [PowerProfile(snapshot.step, tracked) for snapshot in self.snapshots for tracked in config.lengths]
        target = PowerProfile(self.step, length)
        solution = coefficients(profiles, target)
        if (error := profile_error(profiles, solution, target)) > CAUTIONED_ERROR:
            warnings.warn(
                f"length {length:g}: {len(self.snapshots)} snapshots come within {error:.0%} of its profile; more of "
                "them, or a length nearer to the tracked ones, would be closer",
                stacklevel=2,
            )
        factors = iter(solution)
        total: dict[str, Tensor] = {}
        for snapshot in self.snapshots:
            for i in range(len(config.lengths)):
                averages, factor = snapshot.read(f"{PREFIX}{i}."), next(factors)
                for name, tensor in averages.items():
                    if tensor.is_floating_point():
                        total[name] = total.get(name, 0) + factor * tensor.double()
                    else:
                        total[name] = tensor  # of the last snapshot
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in total.items()}
