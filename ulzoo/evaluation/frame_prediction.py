"""Frame prediction: PSNR of each generated frame, and of repeating the last context frame as a baseline."""

from typing import Any

import torch

from ulzoo.data import Source
from ulzoo.data.fingerprint import fingerprint
from ulzoo.evaluation.collected import ExampleValues
from ulzoo.evaluation.config import NOISE, EvaluationConfig
from ulzoo.evaluation.execution import DEFAULT_EXECUTION, Execution, SharedPass
from ulzoo.evaluation.protocol import Protocol, clip_fields
from ulzoo.media.pixels import frame_psnr
from ulzoo.model.unified_latents import UnifiedLatents

FIRST = 2  # frames with a mean of their own, because the context determines later frames less and less


@torch.no_grad()
def frame_prediction(
    model: UnifiedLatents,
    source: Source,
    config: EvaluationConfig,
    *,
    execution: Execution = DEFAULT_EXECUTION,
) -> dict[str, Any]:
    """Generate one continuation of each clip, without a class, and compare it with the clip's own frames.

    Args:
        model: in eval mode, with a base, and with frame conditioning.
        source: the clips; the first frames of each are the context, the others are the ground truth.
        config: the settings that all metrics share.
        execution: processes, resumption and progress. The caller removes the partial results (`Execution.finish`).

    Returns:
        {"figures": {"prediction_psnr_db", "prediction_psnr_db_first_2", "prediction_psnr_db_by_frame" and the same of
        "copy_last", which repeats the last context frame}, "protocol"}, ready for JSON. Means are over clips and
        frames. {} in all processes but the main one.

    Raises:
        ValueError: the model has no base, or no frame conditioning.
    """
    contract = model.contract
    if not contract.context_frames:
        raise ValueError("this model generates whole clips: it has no frame prediction to measure")
    context = contract.context_frames
    batch_size = config.examples_per_batch(video=True)
    sampling = contract.sampling["base"]
    protocol = Protocol(
        data=config.data,
        split=config.split,
        fingerprint=fingerprint(source, config.count(source)).identity,
        clips=config.count(source),
        **clip_fields(contract),
        labels="none",
        samples_per_clip=1,
        base_sampler=sampling.sampler,
        base_steps=config.base_steps or sampling.steps,
        guidance=1.0,
        **config.decoder_protocol(model),
        seed=config.seed,
        noise=NOISE,
        psnr="mean over clips and generated frames of the PSNR of each uint8-rounded frame in [0, 255]",
        copy_last="the last given frame, repeated",
    )
    psnrs = ExampleValues()
    identity = {"batch_size": batch_size, **protocol, **config.shared_fields(model)}
    partial = execution.partial_results({"psnrs": psnrs}, model, identity)
    shared = SharedPass(source, batch_size, config.limit, partial, execution)
    for batch, examples in shared.batches():
        x = batch["x"].to(model.device)
        truth = x[:, :, context:]
        noise = config.noise("predictions", examples, model.device)
        predicted = model.sample(
            len(x), frames=x[:, :, :context], steps=config.base_steps, generator=noise, network=config.decoder
        )
        psnrs.add("prediction", frame_psnr(predicted[:, :, context:], truth))
        psnrs.add("copy_last", frame_psnr(x[:, :, context - 1 : context].expand_as(truth), truth))
    if not execution.processes.is_main:
        return {}
    figures: dict[str, Any] = {}
    for name in ("prediction", "copy_last"):
        by_frame = psnrs.rows(name).mean(0)
        figures[f"{name}_psnr_db"] = by_frame.mean().item()
        figures[f"{name}_psnr_db_first_{FIRST}"] = by_frame[:FIRST].mean().item()
        figures[f"{name}_psnr_db_by_frame"] = by_frame.tolist()
    return {"figures": figures, "protocol": protocol | {"clips": shared.images}}
