"""How well a model continues given frames: PSNR of each generated frame, beside that of standing still."""

from collections.abc import Callable
from typing import Any

import torch

from ulzoo.data import Source, in_order
from ulzoo.evaluation.rate_distortion import clip_conditions, default_batch
from ulzoo.media.pixels import frame_psnr
from ulzoo.model.unified_latents import UnifiedLatents

FIRST = 2  # frames whose mean has a figure of its own: the later ones are less and less decided by the given ones


@torch.no_grad()
def frame_prediction(
    model: UnifiedLatents,
    source: Source,
    *,
    data: dict[str, Any],
    split: str = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    on_image: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Figures and their protocol. One continuation is drawn for each clip, without a class.

    Args:
        model: in eval mode, with a base, and made to continue given frames.
        source: the split's clips; the first frames of each are given, the others are the truth.
        data: the spec's data section, for the protocol.
        limit: how many clips; all if None.
        batch_size: 8 if None.
        steps: of the base; the spec's if None.
        on_image: told how many clips are done, for a display.

    Returns:
        {"figures": {"prediction_psnr_db", "prediction_psnr_db_first_2", "prediction_psnr_db_by_frame" and the same of
        "copy_last", which repeats the last given frame}, "protocol"}, ready for JSON. A mean is one over clips and
        frames.

    Raises:
        ValueError: the model has no base, or continues no frames.
    """
    contract = model.contract
    if not contract.given_frames:
        raise ValueError("this model makes whole clips: it has no frame prediction to measure")
    given, generator = contract.given_frames, torch.Generator(model.device).manual_seed(seed)
    batch_size = batch_size or default_batch(contract)
    quality: dict[str, list[torch.Tensor]] = {"prediction": [], "copy_last": []}
    done = 0
    for batch in in_order(source, batch_size, limit):
        x = batch["x"].to(model.device)
        truth = x[:, :, given:]
        predicted = model.sample(len(x), frames=x[:, :, :given], steps=steps, generator=generator)
        quality["prediction"].append(frame_psnr(predicted[:, :, given:], truth))
        quality["copy_last"].append(frame_psnr(x[:, :, given - 1 : given].expand_as(truth), truth))
        done += len(x)
        on_image(batch["images"])
    figures: dict[str, Any] = {}
    for name, parts in quality.items():
        by_frame = torch.cat(parts).cpu().double().mean(0)
        figures[f"{name}_psnr_db"] = by_frame.mean().item()
        figures[f"{name}_psnr_db_first_{FIRST}"] = by_frame[:FIRST].mean().item()
        figures[f"{name}_psnr_db_by_frame"] = by_frame.tolist()
    sampling = contract.sampling
    protocol = {
        "data": data,
        "split": split,
        "clips": done,
        "batch_size": batch_size,
        **clip_conditions(contract),
        "labels": "none",
        "samples_per_clip": 1,
        "base_sampler": sampling["base"].sampler,
        "base_steps": steps or sampling["base"].steps,
        "guidance": 1.0,
        "decoder_sampler": sampling["decoder"].sampler,
        "decoder_steps": sampling["decoder"].steps,
        "seed": seed,
        "psnr": "mean over clips and generated frames of the PSNR of each uint8-rounded frame in [0, 255]",
        "copy_last": "the last given frame, repeated",
    }
    return {"figures": figures, "protocol": protocol}
