"""Frame prediction: PSNR of each generated frame, and of repeating the last context frame as a baseline."""

from collections.abc import Callable
from typing import Any

import torch

from ulzoo.data import Source, in_order
from ulzoo.data.fingerprint import fingerprint
from ulzoo.evaluation.config import NOISE, EvaluationConfig
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
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Generate one continuation of each clip, without a class, and compare it with the clip's own frames.

    Args:
        model: in eval mode, with a base, and with frame conditioning.
        source: the clips; the first frames of each are the context, the others are the ground truth.
        config: the settings that all metrics share.
        on_progress: called with the number of clips processed so far.

    Returns:
        {"figures": {"prediction_psnr_db", "prediction_psnr_db_first_2", "prediction_psnr_db_by_frame" and the same of
        "copy_last", which repeats the last context frame}, "protocol"}, ready for JSON. Means are over clips and
        frames.

    Raises:
        ValueError: the model has no base, or no frame conditioning.
    """
    contract = model.contract
    if not contract.context_frames:
        raise ValueError("this model generates whole clips: it has no frame prediction to measure")
    context = contract.context_frames
    batch_size = config.examples_per_batch(video=True)
    psnrs: dict[str, list[torch.Tensor]] = {"prediction": [], "copy_last": []}
    clips = 0
    for batch in in_order(source, batch_size, config.limit):
        x = batch["x"].to(model.device)
        truth = x[:, :, context:]
        noise = config.noise("predictions", range(clips, clips + len(x)), model.device)
        predicted = model.sample(len(x), frames=x[:, :, :context], steps=config.base_steps, generator=noise)
        psnrs["prediction"].append(frame_psnr(predicted[:, :, context:], truth))
        psnrs["copy_last"].append(frame_psnr(x[:, :, context - 1 : context].expand_as(truth), truth))
        clips += len(x)
        on_progress(batch["images"])
    figures: dict[str, Any] = {}
    for name, parts in psnrs.items():
        by_frame = torch.cat(parts).cpu().double().mean(0)
        figures[f"{name}_psnr_db"] = by_frame.mean().item()
        figures[f"{name}_psnr_db_first_{FIRST}"] = by_frame[:FIRST].mean().item()
        figures[f"{name}_psnr_db_by_frame"] = by_frame.tolist()
    sampling = contract.sampling
    protocol = Protocol(
        data=config.data,
        split=config.split,
        fingerprint=fingerprint(source, config.count(source)).identity,
        clips=clips,
        **clip_fields(contract),
        labels="none",
        samples_per_clip=1,
        base_sampler=sampling["base"].sampler,
        base_steps=config.base_steps or sampling["base"].steps,
        guidance=1.0,
        decoder_sampler=sampling["decoder"].sampler,
        decoder_steps=sampling["decoder"].steps,
        seed=config.seed,
        noise=NOISE,
        psnr="mean over clips and generated frames of the PSNR of each uint8-rounded frame in [0, 255]",
        copy_last="the last given frame, repeated",
    )
    return {"figures": figures, "protocol": protocol}
