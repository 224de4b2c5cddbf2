"""A store to report on: a grid of two keys with two seeds, pictures, a failed point and the paper's values."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

FACTORS, CHANNELS = (1.3, 1.5, 1.7), (4, 8)
SWEEP = """\
name: demo
description: two knobs
source: Table 2
expect: more bits, higher PSNR
spec: emoji32_tiny
columns: [bits_per_pixel, psnr_db]
grid: {decoder.weighting.loss_factor: [1.3, 1.5, 1.7], latent.channels: [4, 8]}
"""


def row(factor: float, channels: int, seed: int = 0, **other: Any) -> dict[str, Any]:
    """A row of a finished point; PSNR and rate increase with both settings."""
    name = f"{factor}_{channels}"
    digest = f"{name}-{seed}".encode().hex().ljust(64, "0")
    return {
        "point": name,
        "series": f"emoji32_tiny channels={channels}",
        "seed": seed,
        "set": {"decoder.weighting.loss_factor": factor, "latent.channels": channels},
        "spec": "emoji32_tiny",
        "spec_hash": digest,
        "status": "done",
        "error": None,
        "figures": {
            "bits_per_pixel": 0.1 * factor * channels**0.25 + 0.001 * seed,
            "psnr_db": 20 + 2 * factor + channels / 16 + 0.1 * seed,
            "fd_demo": 9 - factor,
        },
        "protocol": {"data": {"kind": "emoji3d"}, "images": 327},
        "paper": {"bits_per_pixel": 0.2 * factor, "psnr_db": 24 + factor} if channels == 4 else {},
        "versions": {"ulzoo": "0.1.0"},
        "training_flops": {"latents": 1.5e12, "base": 5e11},
        "gflops": {"encoder": 0.5, "base": 1.0 * channels},
        "parameters": {"encoder": 1000, "base": 234_000},
        "seconds": 12.5,
        "folder": f"points/{name}-{digest[:8]}-{seed}",
        "finished": "2026-11-23T12:00:00Z",
        **other,
    }


@pytest.fixture(scope="session")
def make_row() -> Callable[..., dict[str, Any]]:
    return row


@pytest.fixture(scope="session")
def make_store(tmp_path_factory) -> Callable[..., Path]:
    """`make_store(rows, sweep=True)` writes a store and returns its folder; points of seed 0 get a picture each."""

    def write(rows: list[dict[str, Any]], sweep: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("stores") / "demo"
        folder.mkdir()
        if sweep:
            (folder / "sweep.yaml").write_text(SWEEP)
        (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for i, each in enumerate(rows):
            if each["status"] == "done" and each["seed"] == 0 and len(rows) < 100:
                samples = folder / each["folder"] / "samples"
                samples.mkdir(parents=True)
                Image.new("RGB", (1500, 200), (40 * i % 256, 90, 160)).save(samples / "reconstructions.png")
        return folder

    return write


@pytest.fixture(scope="session")
def demo(make_store) -> Path:
    """The folder of the store that the module docstring describes."""
    rows = [row(factor, channels, seed) for seed, channels, factor in product((0, 1), CHANNELS, FACTORS)]
    error = "loss is not finite at step 7 <b>bold</b></script><script>document.title='broken'</script>"
    failed = row(1.9, 8) | {"status": "failed", "error": error, "figures": {}}
    return make_store([*rows, failed])
