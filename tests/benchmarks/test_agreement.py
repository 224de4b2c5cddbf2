"""The agreement of a device with the CPU, measured on the CPU itself."""

from pathlib import Path

import torch

from benchmarks.agreement import HostNoise, compare
from ulzoo.registry import load_spec
from ulzoo.runtime.devices import effective_precision

TINY = Path(__file__).parents[1] / "tiny.yaml"


def test_the_cpu_agrees_with_itself_in_fp32_and_nearly_in_bf16() -> None:
    fp32, bf16 = compare(load_spec(TINY), "latents", torch.device("cpu"), batch=2)
    assert fp32["loss_difference"] == fp32["gradient_difference"] == 0 and fp32["met"]
    assert bf16["loss_difference"] < 2e-2 and bf16["gradient_difference"] < 1e-1 and bf16["met"]
    rounded = effective_precision("bf16", torch.device("cpu")) == "bf16"  # else this processor computes in fp32
    assert (bf16["loss_difference"] > 0) == (bf16["gradient_difference"] > 0) == rounded


def test_noise_of_a_device_is_drawn_on_the_host() -> None:
    """A generator of the host cannot draw numbers of another device."""
    with HostNoise():
        drawn = torch.empty(3, device="meta").normal_(generator=torch.Generator())
        others = torch.rand(3, generator=torch.Generator(), device="meta")
    assert drawn.device == others.device == torch.device("meta")
