"""Bases of a given cost: their FLOPs by PyTorch's counter, and that no size of that cost is closer to the paper's."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ulzoo.media.captions import Text
from ulzoo.nn import DenoiserInputs, HierarchicalViT
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.registry import load_spec
from ulzoo.registry.cost.size_search import base_inputs, hierarchical_vit_flops, search_base_size
from ulzoo.registry.cost.summary import summarize

IMAGENET = DenoiserInputs((32, 32), 32)
TEXT2IMAGE = replace(IMAGENET, text_tokens=256, text_width=2048)  # text as in our specs; the paper does not specify it


def counted(inputs: DenoiserInputs, channels: tuple[int, int], blocks: tuple[int, int]) -> int:
    """FLOPs of the real network, on `meta`."""
    with torch.device("meta"):
        network = HierarchicalViT(inputs, channels=channels, blocks=blocks, head_width=64)
        tokens = torch.empty(1, inputs.text_tokens, inputs.text_width)
        conditions = NetworkConditions(
            labels=torch.zeros(1, dtype=torch.long) if inputs.num_classes else None,
            text=Text(tokens, torch.empty(1, inputs.text_tokens, dtype=torch.bool)) if inputs.text_width else None,
            context_frames=torch.empty(1, inputs.frame_channels, *inputs.size) if inputs.frame_channels else None,
        )
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.empty(1, inputs.channels, *inputs.size), torch.empty(1), conditions)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "inputs",
    [
        IMAGENET,
        TEXT2IMAGE,
        DenoiserInputs((8, 4), 7, text_tokens=77, text_width=100),
        DenoiserInputs((4, 8, 4), 16, frame_channels=17, num_classes=10),
    ],
    ids=["ImageNet", "text-to-image", "small text", "video"],
)
def test_the_formula_counts_as_pytorch_does(inputs):
    for channels, blocks in (((512, 1024), (6, 16)), ((64, 128), (2, 4)), ((192, 320), (4, 2))):
        assert hierarchical_vit_flops(inputs, channels, blocks) == pytest.approx(
            counted(inputs, channels, blocks), rel=0.01
        )


@pytest.mark.parametrize(
    ("gflops", "channels", "blocks"),
    [(100, (384, 768), (4, 14)), (300, (640, 1280), (6, 14)), (970, (832, 1664), (10, 30))],
)
def test_the_papers_text_to_image_bases(gflops, channels, blocks):
    """Their cost is within 2 % by PyTorch's counter; `specs/` has these sizes."""
    size = search_base_size(TEXT2IMAGE, gflops)
    assert size.channels == channels and size.blocks == blocks
    cost = counted(TEXT2IMAGE, channels, blocks) / 1e9
    assert cost == pytest.approx(gflops, rel=0.02) and cost == pytest.approx(size.gflops, rel=1e-6)


def test_the_cost_of_the_papers_base_gives_its_size():
    size = search_base_size(IMAGENET, hierarchical_vit_flops(IMAGENET, (512, 1024), (6, 16)) / 1e9)
    assert size.channels == (512, 1024) and size.blocks == (6, 16)


@pytest.mark.parametrize("gflops", [0.5, 3.0, 25.0])
def test_no_size_of_the_same_cost_is_closer_to_the_papers_shape(gflops):
    """By exhaustive search, with the ratios written out."""
    inputs = DenoiserInputs((8, 8), 4, text_tokens=16, text_width=64)

    def distance(width: int, outer: int, inner: int) -> float:
        return math.hypot(math.log((outer + inner) / width / (22 / 512)), math.log(inner / outer / (16 / 6)))

    distances = {}
    for width in range(64, 2000, 64):
        for outer in range(2, 40, 2):
            for inner in range(2, 100, 2):
                cost = hierarchical_vit_flops(inputs, (width, 2 * width), (outer, inner)) / 1e9
                if abs(cost / gflops - 1) <= 0.02:
                    distances[(width, 2 * width), (outer, inner)] = distance(width, outer, inner)
    size = search_base_size(inputs, gflops)
    assert len(distances) > 5
    assert distance(size.channels[0], *size.blocks) == pytest.approx(min(distances.values()))
    assert (size.channels, size.blocks) in distances


@pytest.mark.parametrize("gflops", [0.0, -1.0, 1e-3, 2.0, math.inf, math.nan])
def test_a_cost_that_no_size_has(gflops):
    with pytest.raises(ValueError, match=f"no two-level ViT with heads of 64 channels is within 2 % of {gflops:g} GF"):
        search_base_size(IMAGENET, gflops)


def test_a_grid_without_a_second_level():
    with pytest.raises(ValueError, match="a latent of 4×5 has no second level: its sides must be even"):
        search_base_size(DenoiserInputs((4, 5), 4), 1.0)


@pytest.mark.parametrize("name", ["text2image512_100g", "imagenet512_medium", "kinetics600_medium"])
def test_the_inputs_of_a_specs_base(name):
    """With the base's own size they give the FLOPs that its summary counts."""
    spec = load_spec(name)
    base = spec.base.backbone
    expected = summarize(spec).flops["base"]
    assert hierarchical_vit_flops(base_inputs(spec), base.channels, base.blocks) == pytest.approx(expected, rel=0.01)
