"""`ulzoo train` from another model's weights: `--init`, fine-tuning, a base with a user's own backbone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.files import tensor_file
from ulzoo.registry import open_model
from ulzoo.registry.spec.components import BACKBONES

FROZEN = ("--set", "init.parts=[encoder, prior, decoder]", "--set", "init.freeze=[encoder, prior, decoder]",
          "--set", "train.latents=null")  # fmt: skip


def test_training_starts_from_another_model(ulzoo, trained, here):
    command = ("train", "tiny.yaml", "--init", trained / "run", "--out", "fine", "--device", "cpu")
    plan = ulzoo(*command, "--dry-run")
    assert f"weights of {trained / 'run'}: all parts that fit" in " ".join(plan.stdout.split())
    result = ulzoo(*command, "--set", "base.class_conditional=false", "--stage", "latents")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"\ndecoder +(\d+) of \1 +([\d,]+) of \2 *\n", result.stdout)
    assert re.search(r"\n  base: not used: network.cond.labels.weight\n", result.stdout)
    assert json.loads(Path("fine/init.json").read_text())["model"] == str(trained / "run")
    digest = open_model(trained / "run").weights_sha256
    assert f"init:\n  model: {trained / 'run'}\n  sha256: {digest}\n" in Path("fine/spec.yaml").read_text()
    assert digest[:12] in ulzoo("show", "fine/spec.yaml").stdout.splitlines()[-2]


def test_a_base_on_a_frozen_autoencoder(ulzoo, trained, here):
    """`base` starts at once; show, the plan, evaluate, reconstruct and export understand it."""
    command = ("train", "tiny.yaml", "--init", trained / "run", "--out", "mine", "--device", "cpu", *FROZEN)
    plan = ulzoo(*command, "--dry-run")
    assert plan.exit_code == 0 and re.search(r"\nstage +base *\n", plan.stdout) and "frozen: encoder" in plan.stdout
    result = ulzoo(*command)
    assert result.exit_code == 0, result.stderr
    assert "stage latents" not in result.stdout and "stage base: 2 steps" in result.stdout
    assert "frozen" in next(line for line in result.stdout.splitlines() if line.startswith("prior "))
    ours, theirs = (tensor_file.read(path / "model.safetensors").tensors for path in (Path("mine"), trained / "run"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items() if not name.startswith("base."))
    evaluated = ulzoo("evaluate", "mine", "--limit", 4, "--device", "cpu", "--json")
    assert {"psnr_db", "bits_per_pixel", "base_bits_per_pixel"} <= json.loads(evaluated.stdout)["figures"].keys()
    assert ulzoo("export", "mine", "--out", "half.safetensors", "--dtype", "float16").exit_code == 0
    assert ulzoo("reconstruct", "half.safetensors", "--out", "grid.png", "--n", 2).exit_code == 0
    shown = json.loads(ulzoo("show", "mine/spec.yaml", "--json").stdout)
    assert shown["summary"]["gflops_training_per_image"].keys() == {"base"}
    refused = ulzoo(*command, "--stage", "latents", "--fresh")
    assert refused.exit_code == 2 and "has no stage 'latents'; its stages are base" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "nowhere"], "nowhere: no such file, run directory or released model"),
        (["--init", "emoji32_tiny"], "no tensor of emoji32_tiny fits this spec's encoder, prior, decoder, base"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(ulzoo, here, arguments, message):
    result = ulzoo("train", "tiny.yaml", "--device", "cpu", "--out", "fine", *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (here / "fine").exists()


# ------------------------------------------------------------------------------------------------------- released model

OWN_BASE = """
name: own_base
extends: emoji32_tiny
init: {model: emoji32_tiny, parts: [encoder, prior, decoder], freeze: [encoder, prior, decoder]}
base: {backbone: {kind: my_network, width: 16}, class_conditional: false}
train: {latents: null, base: {steps: 2, batch_size: 4, log_every: 1}}
"""

NETWORK = '''
from torch import nn

class MyNetwork(nn.Module):
    """Two convolutions.

    Args:
        width: channels of the features.
    """

    num_classes = 0

    def __init__(self, inputs, *, width: int = 8):
        super().__init__()
        self.inner = nn.Conv2d(inputs.channels, width, 3, padding=1)
        self.out = nn.Conv2d(width, inputs.channels, 3, padding=1)

    def forward(self, x_t, logsnr, conditions):
        return self.out(nn.functional.silu(self.inner(x_t) + logsnr.to(x_t)[:, None, None, None]))
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package outside the repository with the backbone `my_network`."""
    info = tmp_path / "site" / "my_package-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text("[ulzoo.components]\nbackbone.my_network = my_package:MyNetwork\n")
    tmp_path.joinpath("site", "my_package.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    installed = vars(BACKBONES).pop("_plugins", None)
    yield
    vars(BACKBONES).pop("_plugins", None)
    if installed is not None:
        vars(BACKBONES)["_plugins"] = installed


def test_a_base_with_a_users_own_backbone_on_the_released_autoencoder(ulzoo, here, package):
    """A spec of at most 12 lines; the autoencoder is bit-identical before and after."""
    assert len(OWN_BASE.strip().splitlines()) <= 12
    Path("own.yaml").write_text(OWN_BASE)
    result = ulzoo("train", "own.yaml", "--out", "run", "--device", "cpu", "--set", "sample.base.steps=2")
    assert result.exit_code == 0, result.stderr
    ours, theirs = open_model("run").model, open_model("emoji32_tiny").model
    assert type(ours.base.network).__name__ == "MyNetwork" and ours.sample(1).isfinite().all()
    for name in ("encoder", "prior", "decoder"):
        tensors = getattr(theirs, name).state_dict()
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in getattr(ours, name).state_dict().items())


@pytest.mark.slow
def test_fine_tuning_beats_training_from_scratch(ulzoo, here):
    """A shorter version of benchmarks/fine_tuning.py, which has photographs and 105 steps."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for i in range(count):
            path = here / "pictures" / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
            corners.resize((32, 32), Image.Resampling.BICUBIC).save(path)
    keys = ["data={kind: image_folder, root: pictures, resolution: 32, num_classes: null}", "base=null",
            "train.base=null", "train.latents.steps=24", "train.latents.warmup_steps=3", "train.latents.batch_size=6",
            "train.latents.prior_warmup_steps=0", "train.latents.precision=fp32", "train.latents.ema=0.6"]  # fmt: skip
    settings = [argument for key in keys for argument in ("--set", key)]
    psnr = {}
    for name, init in {"scratch": [], "fine": ["--init", "emoji32_tiny"]}.items():
        result = ulzoo("train", "emoji32_tiny", "--out", name, "--device", "cpu", *settings, *init)
        assert result.exit_code == 0, result.stderr
        psnr[name] = json.loads(Path(name, "figures.json").read_text())["figures"]["psnr_db"]
    assert psnr["fine"] > psnr["scratch"] + 4, psnr
