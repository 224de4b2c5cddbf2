"""The pictures that training saves after a stage."""

from pathlib import Path

import torch

from ulzoo.data import Source
from ulzoo.data.subset import spread_batch
from ulzoo.model.conditioning import DecodeOptions
from ulzoo.model.contract import DecoderName, Stage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.visualization import SampleRequest, reconstructed_clips, sampled_clips, save_clips, save_grid

DRAWN_CLIPS = 8


def draw_stage(model: UnifiedLatents, validation: Source, folder: Path, stage: Stage) -> list[Path]:
    """Save reconstructions of validation data after a stage that trains a decoder, samples after one that samples.

    Returns:
        the pictures; of clips, the contact sheet.
    """
    reconstructs, pictures = stage != "base", []
    decoders: dict[Stage, DecoderName | None] = {"distill": "distilled", "base": None}
    network = decoders.get(stage, "decoder")  # a distilled decoder is not trained before its stage
    if model.contract.video:
        name = "reconstructions" if reconstructs else "samples"
        if reconstructs:
            bands = reconstructed_clips({name: model}, validation, DRAWN_CLIPS, network=network)
        else:
            bands = sampled_clips({name: model}, SampleRequest(DRAWN_CLIPS), source=validation)
        return save_clips(folder / f"{name}.png", bands, model.contract)[:1]
    if reconstructs:
        batch = spread_batch(validation, 12)
        x, generator = batch["x"].to(model.device), torch.Generator(model.device).manual_seed(0)
        options: DecodeOptions = {"labels": batch["label"], "text": batch["text"], "network": network}
        reconstructions = model.reconstruct(x, generator=generator, **options)
        pictures.append(folder / "reconstructions.png")
        save_grid(pictures[-1], [("validation images", x), ("reconstructions", reconstructions)])
    if not reconstructs or model.contract.single_stage:
        text = spread_batch(validation, 48)["text"]
        generator = torch.Generator(model.device).manual_seed(0)
        samples = model.sample(48 if text is None else len(text.mask), generator=generator, text=text, network=network)
        rows = [("" if i else "samples", row) for i, row in enumerate(samples.split(12))]
        pictures.append(folder / "samples.png")
        save_grid(pictures[-1], rows)
    return pictures
