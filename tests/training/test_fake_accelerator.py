"""Steps of training on a simulated accelerator: none copies from the host but its batch, and none waits.

A copy from pageable memory makes the host wait until the device has computed all that was launched before it, as a
value that is read back does.
"""

import json
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

COUNT = """
import runpy
from pathlib import Path
runpy.run_path(script)["main"](cases, Path(folder))
"""
SMALL = "{kind: vit, patch: 4, width: 32, depth: 1, heads: 2}"
SHORT = "{steps: 4, batch_size: 4, lr: 1e-3}"
BF16 = ("precision=bf16", "optimizer=adamw")

IMAGE_STEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "encoder": ("latents", ()),
    "base, averages": ("base", ("train.base.posthoc_ema={lengths: [0.05, 0.2], snapshot_every: 4}",)),
    "base, captions, bf16": (
        "base",
        ("data.text_tokens=4", "data.text_width=6", "base.text_conditional=true", "train.base.precision=bf16"),
    ),
    "learned variance": ("latents", ("latent.variance=learned",)),
    "random log-SNR": (
        "latents",
        ("base=null", "train.base=null", "latent.logsnr_bias=0", "decoder.latent_logsnr=true"),
    ),
    "normal prior, regression": (
        "latents",
        ("prior={kind: normal}", f"decoder={{kind: mse, backbone: {SMALL}, weight: 50}}"),
    ),
    "final decoder, bf16, AdamW": (
        "decoder",
        (f"final_decoder={{backbone: {SMALL}}}", f"train.decoder={SHORT}", *(f"train.decoder.{key}" for key in BF16)),
    ),
    "distilled decoder": ("distill", ("distilled={steps: [1, 2]}", f"train.distill={SHORT}")),
    "adaptive schedule": ("base", ("base.schedule={kind: adaptive}",)),
}
VIDEO_STEPS = {"video, encoder": "latents", "video, base": "base"}


@pytest.fixture(scope="module")
def count(forkserver: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict], dict]:
    """count(cases): the counts of `fake_accelerator.main`."""

    def call(cases: dict[str, tuple[str, tuple[str, ...], str]]) -> dict[str, dict[str, int]]:
        folder = tmp_path_factory.mktemp("fake")
        script = str(Path(__file__).parent / "fake_accelerator.py")
        process = forkserver.Process(target=exec, args=(COUNT, {"script": script, "cases": cases, "folder": folder}))
        process.start()
        process.join()
        assert process.exitcode == 0
        return json.loads((folder / "counts.json").read_text())

    return call


@pytest.fixture(scope="module")
def counts(count: Callable[[dict], dict], images: Path) -> dict[str, dict[str, int]]:
    tests = Path(__file__).parents[1]
    image, video = str(tests / "tiny.yaml"), str(tests / "tiny_video.yaml")
    cases = {name: (image, (f"data.root={images}", *keys), stage) for name, (stage, keys) in IMAGE_STEPS.items()}
    return count(cases | {name: (video, (), stage) for name, stage in VIDEO_STEPS.items()})


def test_what_is_counted(counts):
    """Copies of numbers and tensors from the host and to it, values that are read, shapes that depend on values."""
    operations = {
        "to device": {"a number", "a list", "a tensor", "in place", "a list of tensors", "an index"},
        "to host": {"a result"},
        "wait": {"item", "a condition"},
        "unknown shape": {"a mask", "values at a mask", "nonzero", "repeat_interleave"},
    }
    for kind, names in operations.items():
        assert {name for name in counts if counts[name] == {f"{kind}: PyTorch": 1}} == names
    assert counts["a filled number"] == counts["a shape that is known"] == {}


def all_steps() -> list[str]:
    return [*IMAGE_STEPS, *VIDEO_STEPS]


@pytest.mark.parametrize("name", all_steps())
def test_a_step_copies_its_batch_and_never_waits(name, counts):
    captions = {"to device: Text.to": 2} if "captions" in name else {}
    assert counts[name] == {"to device: Trainer._to_device": 2} | captions
