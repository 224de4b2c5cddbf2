"""Defaults that the sizes decide when a YAML spec is loaded, so that the resolved spec and its hash contain them."""

import math
from typing import TYPE_CHECKING, Any

from ulzoo.registry.spec.component_table import ComponentConfig
from ulzoo.registry.spec.components import DATASETS
from ulzoo.registry.spec.sections import DiffusionDecoderConfig

if TYPE_CHECKING:
    from ulzoo.registry.spec.schema import Spec


def decide_by_sizes(spec: "Spec") -> None:
    """Set these defaults of a spec that was just read, and record them in `spec.decided`."""
    for part in ("decoder", "final_decoder"):
        decoder = getattr(spec, part)
        if not isinstance(decoder, DiffusionDecoderConfig):
            continue
        if reason := reason_to_carry(decoder.backbone, spec.data, len(spec.latent.downsample)):
            backbone = decoder.backbone.model_copy(update={"carry": True})
            spec.__dict__[part] = decoder.model_copy(update={"backbone": backbone})  # its fields are frozen
            spec._decided[f"{part}.backbone.carry"] = f"true, since {reason}"


def reason_to_carry(backbone: ComponentConfig, data: ComponentConfig, dims: int) -> str | None:
    """Why a decoder's ViT should carry its input by default; None if it need not, or the spec says.

    A patch of more values than the tokens' width does not fit through the network, so that without a way around it not
    even the noise-free part of x_t does.

    Args:
        backbone: of the decoder.
        data: which says how many channels an image has.
        dims: number of dimensions of an example: 2 of an image, 3 of a clip.
    """
    if backbone.kind != "vit" or "carry" in backbone.model_fields_set:
        return None
    values: dict[str, Any] = backbone.model_dump()
    from ulzoo.nn.grid import patch_sides

    try:
        channels = DATASETS.get(data.kind).describe(**data.model_dump(exclude={"kind"})).channels  # type: ignore[attr-defined]
    except ValueError:
        return None  # reported when the model is built
    size = channels * math.prod(patch_sides(values["patch"], dims))
    if size <= values["width"]:
        return None
    return f"a patch holds {size} values, more than width {values['width']}"
