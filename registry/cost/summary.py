"""The summary of a model: blocks, parameters, FLOPs of every network, and of a step of training."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ulzoo.model.contract import NETWORKS, STAGES, NetworkName, Stage
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.networks import BlockRow, summarize_network
from ulzoo.registry.spec.schema import Spec


@dataclass(frozen=True)
class ModelSummary:
    """A spec in numbers. FLOPs are 2 × multiply-accumulates of linear layers, convolutions and attention, per example.

    Attributes:
        resolution, latent: shape of the image ([t,] h, w) and of the latent (c, [t,] h, w).
        blocks: of all networks.
        parameters, flops: by network; FLOPs of one forward pass.
        encodings: encoder passes per example in stage 2: one, one more for context frames, none for stored latents.
        teacher_steps: passes of the teacher per example of a distilled decoder's training.
        stages: the training stages of the spec.
        frozen: networks that no stage trains.
    """

    resolution: tuple[int, ...]
    latent: tuple[int, ...]
    blocks: list[BlockRow]
    parameters: dict[str, int]
    flops: dict[str, int]
    encodings: int = 1
    teacher_steps: int = 0
    stages: tuple[Stage, ...] = ("latents", "base")
    frozen: tuple[NetworkName, ...] = ()

    def training_flops(self, stage: Stage) -> int:
        """FLOPs per image or clip: 3 × forward for trained networks, 1 × for every pass of a frozen one.

        It is 2 × for a frozen prior or decoder whose gradient with respect to its input trains the encoder.
        """
        frozen_passes = 2 if stage == "latents" and "encoder" not in self.frozen else 1
        passes = {name: frozen_passes if name in self.frozen else 3 for name in STAGES[stage]}
        if stage == "distill":
            passes["final_decoder" if "final_decoder" in self.flops else "decoder"] = self.teacher_steps
        if stage != "latents":
            passes["encoder"] = self.encodings if stage == "base" else 1
        return sum(count * self.flops.get(name, 0) for name, count in passes.items())

    def to_dict(self) -> dict[str, Any]:
        return {
            "resolution": list(self.resolution),
            "latent": list(self.latent),
            "parameters": {**self.parameters, "total": sum(self.parameters.values())},
            "gflops_forward": {name: flops / 1e9 for name, flops in self.flops.items()},
            "gflops_training_per_image": {stage: self.training_flops(stage) / 1e9 for stage in self.stages},
            "blocks": [
                {
                    "path": row.path,
                    "kind": row.kind,
                    "output": list(row.output),
                    "parameters": row.parameters,
                    "gflops": row.flops / 1e9,
                }
                for row in self.blocks
            ],
        }


def summarize(spec: Spec) -> ModelSummary:
    """Compile on "meta", and measure every network, unless it is recorded.

    Raises:
        SpecError: the parts of the model do not fit together.
    """
    model = compile_model(spec, "meta")
    contract = model.contract
    measured = {name: summarize_network(spec, name, model) for name in NETWORKS if getattr(model, name) is not None}
    encoded = spec.train.base is not None and spec.train.base.data is not None
    return ModelSummary(
        resolution=contract.size,
        latent=contract.latent_shape,
        blocks=[row for network in measured.values() for row in network.blocks],
        parameters={name: network.parameters for name, network in measured.items()},
        flops={name: network.flops for name, network in measured.items()},
        encodings=0 if encoded else 1 + (contract.context_frames > 0),
        teacher_steps=model.distilled.teacher_steps // min(model.distilled.steps) if model.distilled else 0,
        stages=spec.stages,
        frozen=contract.frozen,
    )


def fold(rows: list[BlockRow]) -> list[tuple[int, BlockRow]]:
    """Merge consecutive equal blocks into one row "blocks.0-7" with the sums of their parameters and FLOPs.

    Returns:
        (number of blocks, row) pairs.
    """

    def identity(row: BlockRow) -> tuple[Any, ...]:
        return row.path.rpartition(".")[0], row.kind, row.output, row.parameters, row.flops

    folded = []
    for _, group in groupby(rows, identity):
        first, *rest = group
        if not (rest and first.path.rpartition(".")[2].isdecimal()):
            folded += [(1, row) for row in (first, *rest)]
            continue
        count = 1 + len(rest)
        path = f"{first.path}-{rest[-1].path.rpartition('.')[2]}"
        row = BlockRow(path, first.kind, first.output, count * first.parameters, count * first.flops)
        folded.append((count, row))
    return folded
