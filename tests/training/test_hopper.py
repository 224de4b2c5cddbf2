"""The Triton kernels of compiled losses compile for an H100 that is not there: images, video, convolutions."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ulzoo.registry import Spec, load_spec
from ulzoo.registry.compile import compile_model

pytest.importorskip("triton")
if torch.__version__ < "2.14":
    pytest.skip("the answers to Inductor are those that PyTorch 2.14 needs", allow_module_level=True)

STILL = ("prior.backbone.dropout=0", "decoder.backbone.dropout=0")


@pytest.fixture(scope="module")
def compile_kernels() -> Callable[..., dict[str, int]]:
    return runpy.run_path(str(Path(__file__).with_name("hopper.py")))["compile_kernels"]


def autoencoder() -> Spec:
    small = "width: 32, heads: 2, depth: 1"
    changes = (
        *("data.resolution=64", "encoder={channels: [8,8,8,8], blocks: [1,1,1,1]}", f"prior.backbone={{{small}}}"),
        f"decoder.backbone={{channels: [8,8,8], blocks: [1,1,1], {small}}}",
    )
    return load_spec("imagenet512_medium", [*changes, *STILL])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "bf16"), [("images", False), ("video", True), ("convolutions", True)])
def test_kernels_of_stage_1_compile(
    kind: str, bf16: bool, compile_kernels: Callable, tiny: Callable, tiny_video: Callable
) -> None:
    specs = {"images": lambda: tiny(*STILL), "video": lambda: tiny_video(*STILL), "convolutions": autoencoder}
    model = compile_model(specs[kind](), pretrained=False)
    model.prepare("latents")
    kernels = compile_kernels(model, "latents", bf16=bf16)
    assert len(kernels) > 30 and all(size > 1000 for size in kernels.values())
