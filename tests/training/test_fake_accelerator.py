"""Steps of training on a simulated accelerator: none copies from the host but its batch, and none waits.

A copy from pageable memory makes the host wait until the device has computed all that was launched before it, as a
value that is read back does.
"""

import json
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from ulzoo.diffusion import noise
from ulzoo.registry import find_specs, load_spec
from ulzoo.registry.compile import data_contract

COUNT = """
import runpy
from pathlib import Path
runpy.run_path(script)["main"](cases, Path(folder))
"""
SMALL = "{kind: vit, patch: 4, width: 32, depth: 1, heads: 2}"
SHORT = "{steps: 4, batch_size: 4, lr: 1e-3}"

IMAGE_STEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "encoder": ("latents", ()),
    "encoder, batch of 64": ("latents", ("train.latents.batch_size=64",)),
    "base, captions, averages, bf16": (
        "base",
        (
            *("data.text_tokens=4", "data.text_width=6", "base.text_conditional=true"),
            *("train.base.posthoc_ema={lengths: [0.05, 0.2], snapshot_every: 4}", "train.base.precision=bf16"),
        ),
    ),
    "learned variance": ("latents", ("latent.variance=learned",)),
    "normal prior, regression": (
        "latents",
        ("prior={kind: normal}", f"decoder={{kind: mse, backbone: {SMALL}, weight: 50}}"),
    ),
    "final decoder, bf16": (
        "decoder",
        (f"final_decoder={{backbone: {SMALL}}}", f"train.decoder={SHORT}", "train.decoder.precision=bf16"),
    ),
    "distilled decoder": ("distill", ("distilled={steps: [1, 2]}", f"train.distill={SHORT}")),
    "adaptive schedule": ("base", ("base.schedule={kind: adaptive}",)),
}
VIDEO_STEPS = {"video, encoder": "latents", "video, base": "base"}


TESTS = Path(__file__).parents[1]
Case = tuple[str, tuple[str, ...], str]  # spec, overrides, stage


def count(forkserver: ForkServerContext, cases: dict[str, Case], folder: Path) -> dict[str, dict[str, int]]:
    """What `fake_accelerator.main` writes."""
    script = str(TESTS / "training" / "fake_accelerator.py")
    process = forkserver.Process(target=exec, args=(COUNT, {"script": script, "cases": cases, "folder": folder}))
    process.start()
    process.join()
    assert process.exitcode == 0
    return json.loads((folder / "counts.json").read_text())


@pytest.fixture(scope="module")
def counts(
    forkserver: ForkServerContext, tmp_path_factory: pytest.TempPathFactory, images: Path
) -> dict[str, dict[str, int]]:
    cases: dict[str, Case] = {}
    for name, (stage, keys) in IMAGE_STEPS.items():
        cases[name] = str(TESTS / "tiny.yaml"), (f"data.root={images}", *keys), stage
    for name, stage in VIDEO_STEPS.items():
        cases[name] = str(TESTS / "tiny_video.yaml"), (f"train.{stage}.optimizer=adamw",), stage
    return count(forkserver, cases, tmp_path_factory.mktemp("fake"))


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


BATCH = {"to device: Trainer._to_device": 2} | ({"to device: KeyStreams.of": 1} if noise.KEYS else {})
CAPTIONS = {"to device: Text.to": 2}


@pytest.mark.parametrize("name", [*IMAGE_STEPS, *VIDEO_STEPS])
def test_a_step_copies_its_batch_and_never_waits(name, counts):
    """A batch has images, labels and the keys of its random numbers."""
    assert without_random(counts[name]) == BATCH | (CAPTIONS if "captions" in name else {})


def without_random(counted: dict[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in counted.items() if kind != "random numbers"}


@pytest.mark.skipif(not noise.KEYS, reason="this version of PyTorch has no keys of random numbers")
def test_random_numbers_take_a_handful_of_kernels_whatever_the_batch(counts):
    operations = {name: counts[name]["random numbers"] for name in (*IMAGE_STEPS, *VIDEO_STEPS)}
    assert all(1 <= count <= 6 for count in operations.values()), operations
    assert operations["encoder"] == operations["encoder, batch of 64"]


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_all_stages_of_all_packaged_specs(half: int, forkserver: ForkServerContext, tmp_path: Path) -> None:
    """With their precision and a batch of two."""
    cases: dict[str, Case] = {}
    expected: dict[str, dict[str, int]] = {}
    for name in list(find_specs())[half::2]:
        spec = load_spec(name)
        for stage in spec.stages:
            keys = (f"train.{stage}.batch_size=2", f"train.{stage}.accumulate=1")
            cases[f"{name}, {stage}"] = name, keys, stage
            expected[f"{name}, {stage}"] = BATCH | (CAPTIONS if data_contract(spec).text_tokens else {})
    counts = count(forkserver, cases, tmp_path)
    assert {name: without_random(counts[name]) for name in cases} == expected
