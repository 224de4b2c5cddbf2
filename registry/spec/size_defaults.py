"""Defaults that the sizes decide when a YAML spec is loaded, so that the resolved spec and its hash contain them."""

import math
from typing import Any

from ulzoo.registry.spec.component_table import ComponentConfig
from ulzoo.registry.spec.components import DATASETS


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
