"""`ulzoo evaluate` of images: distances, the distribution of the bits, and comparisons of two models."""

import json

import numpy as np
import pytest
import torch

from ulzoo.evaluation.features import images as image_features
from ulzoo.runtime.devices import has_bf16

QUICK = ("--limit", 6, "--rate-samples", 1)
LITE0 = "fd_efficientnet_lite0"


def figures_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_ssim_standard_errors_and_hashes(ulzoo, run):
    results = figures_of(ulzoo("evaluate", "run", "--limit", 6, "--json"))
    assert {"ssim", "bits_per_pixel_se", "bits_per_pixel_mc_se", "base_bits_per_pixel_se"} < results["figures"].keys()
    assert results["hashes"].keys() == results["figures"].keys() and "rate" not in results
    assert results["hashes"]["psnr_db"] != results["hashes"]["ssim"] != results["hashes"]["bits_per_pixel"]
    printed = ulzoo("evaluate", "run", "--limit", 6).stdout
    assert "SSIM of reconstructions" in printed and " ± " in printed


def test_distances_of_reconstructions_and_samples(ulzoo, run, here, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(image_features, "SIDE", 32)  # for speed
    args = ("--frechet", LITE0, "--samples", 5, "--reference", "val", "--all-distances", "--guidance", 1.5)
    result = ulzoo("evaluate", "run", *QUICK, *args, "--out", "figures.json", "--save-statistics", "stats.npz")
    assert result.exit_code == 0, result.stderr
    assert "Fréchet distance of samples, EfficientNet-Lite0 (not FID)" in result.stdout and "FID@" not in result.stdout
    assert f"warning: g{LITE0} of 5 images" in result.stderr
    results = json.loads((here / "figures.json").read_text())
    names = {f"{prefix}{name}_efficientnet_lite0" for prefix in "rg" for name in ("fd", "kd", "precision", "recall")}
    assert names < results["figures"].keys() and names < results["hashes"].keys()
    protocol = results["protocol"]
    assert (protocol["reconstructions"]["samples"], protocol["generated"]["samples"]) == (6, 5)
    assert protocol["generated"]["guidance"] == 1.5 and protocol["generated"]["reference_images"] == 327
    with np.load(here / "stats.npz") as file:
        assert file["mu"].shape == (320,) and file["sigma"].shape == (320, 320)
    # the statistics in the file give the same distance; the split supplies only classes and captions
    again = ("--frechet", LITE0, "--samples", 5, "--reference", "val", "--guidance", 1.5)
    named = figures_of(ulzoo("evaluate", "run", *QUICK, *again, "--reference-statistics", "stats.npz", "--json"))
    assert named["figures"][f"g{LITE0}"] == pytest.approx(results["figures"][f"g{LITE0}"], rel=1e-9)
    assert named["protocol"]["generated"]["reference"] == "stats.npz"
    sampled = ulzoo("evaluate", "run", *QUICK, *again, "--batch-size", 2, "--save-samples", "samples.npz")
    assert sampled.exit_code == 0 and "samples.npz" in sampled.stdout
    with np.load(here / "samples.npz") as file:
        assert file.files == ["arr_0"] and file["arr_0"].shape == (5, 32, 32, 3) and file["arr_0"].dtype == np.uint8
        assert file["arr_0"].std() > 10
    sha256s = [each["protocol"]["generated"]["reference_sha256"] for each in (named, results)]
    assert sha256s[0] == sha256s[1]


def test_a_perceptual_distance_without_a_download(ulzoo, run, here):
    results = figures_of(ulzoo("evaluate", "run", *QUICK, "--lpips", "st_alex", "--out", "a.json", "--json"))
    assert 0 < results["figures"]["st_lpips_alex"] < 1 and "st_lpips_alex" in results["hashes"]
    assert len(results["protocol"]["lpips"]["network_sha256"]) == 64
    plain = figures_of(ulzoo("evaluate", "run", *QUICK, "--json"))
    assert plain["hashes"].items() < results["hashes"].items()  # the other figures do not depend on it
    printed = ulzoo("evaluate", "run", *QUICK, "--lpips", "st_alex").stdout
    assert "shift-tolerant LPIPS (not LPIPS) of reconstructions" in printed


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="no bfloat16 on this machine")
def test_metrics_in_bf16_are_not_comparable(ulzoo, run, here):
    plain = figures_of(ulzoo("evaluate", "run", *QUICK, "--json"))
    quick = figures_of(ulzoo("evaluate", "run", *QUICK, "--precision", "bf16", "--json"))
    assert "precision" not in plain["protocol"] and quick["protocol"]["precision"] == "bf16"
    assert all(quick["hashes"][name] != plain["hashes"][name] for name in plain["figures"])
    assert quick["figures"]["bits_per_pixel"] == pytest.approx(plain["figures"]["bits_per_pixel"], rel=0.02)
    assert quick["figures"]["psnr_db"] != plain["figures"]["psnr_db"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_distribution_of_the_bits(ulzoo, run, here, suffix):
    results = figures_of(ulzoo("evaluate", "run", *QUICK, "--rate-plot", f"rate.{suffix}", "--json"))
    assert (here / f"rate.{suffix}").stat().st_size > 1000
    for name, prefix in (("prior", ""), ("base", "base_")):
        rate = results["rate"][name]
        total = sum(rate["bits_per_pixel"]) + rate["terminal"] + rate["encoder"]
        assert total == pytest.approx(results["figures"][f"{prefix}bits_per_pixel"], rel=0.01)
        assert len(rate["images"]) == 6 and len(rate["channels"]) == 4


def test_metrics_of_the_same_protocol_are_comparable(ulzoo, run, here):
    assert ulzoo("evaluate", "run", "--limit", 8, "--rate-samples", 8, "--out", "a.json").exit_code == 0
    result = ulzoo("evaluate", "run", "a.json", "--compare")  # the run was evaluated on 8 images
    assert result.exit_code == 0, result.stderr
    assert "psnr_db" in result.stdout and "+0" in result.stdout and "not comparable" not in result.stdout
    result = ulzoo("evaluate", "run/model.safetensors", "a.json", "--compare", "--json")
    assert result.exit_code == 0 and all(abs(row["difference"]) < 1e-6 for row in json.loads(result.stdout))


def test_differing_protocol_fields_are_printed(ulzoo, run, here):
    assert ulzoo("evaluate", "run", "--limit", 8, "--steps", 3, "--out", "a.json").exit_code == 0
    result = ulzoo("evaluate", "run", "a.json", "--compare")
    assert result.exit_code == 1 and result.stderr == ""
    assert "not comparable: psnr_db\n  decoder_steps: 2 and 3" in result.stdout.replace(", ssim", "")
    assert "bits_per_pixel" in result.stdout.partition("not comparable")[0]
    rows = json.loads(ulzoo("evaluate", "run", "a.json", "--compare", "--json").stdout)
    assert {row["figure"]: row["difference"] for row in rows}["psnr_db"] is None
    result = ulzoo("evaluate", "emoji32_tiny", "a.json", "--compare")
    assert result.exit_code == 1 and "images: 327 and 8" in result.stdout and "data." not in result.stdout


MISTAKES = {
    "one to compare": (("run", "--compare"), "takes two models or JSON files, not 1"),
    "two to measure": (("run", "run"), "--compare compares two"),
    "nothing there": (("run", "absent", "--compare"), "absent: neither a released model"),
    "no results": (("run", "tiny.yaml", "--compare"), "tiny.yaml: not a complete safetensors file"),
    "other JSON": (("run", "x.json", "--compare"), "x.json: contains no metrics"),
    "no JSON": (("run", "y.json", "--compare"), "y.json: not JSON"),
    "samples of nothing": (("run", "--samples", "5"), "go with --frechet fid"),
    "clips of images": (("run", "--frechet", LITE0, "--clips", "5"), "distances of images take --samples"),
    "a distance of clips": (("run", "--frechet", "fvd"), "fvd compares clips: this is a model of images"),
    "no weights": (
        ("run", "--frechet", "fid"),
        "fd_efficientnet_lite0 is a distance whose weights come with a package",
    ),
    "no DINOv2": (("run", "--frechet", "fd_dinov2"), "DINOv2's ViT-L/14 (1.2 GB): --download fetches it"),
    "hash alone": (("run", "--frechet", "fid", "--detector-sha256", "00"), "belongs to a file"),
    "another hash": (("run", "--frechet", "fid", "--detector", "x.json"), "x.json: its SHA-256 is"),
    "LPIPS without weights": (("run", "--lpips", "alex"), "st_alex is a distance whose weights come with a package"),
    "LPIPS of other weights": (("run", "--lpips", "vgg", "--lpips-weights", "x.json"), "x.json: its SHA-256 is"),
    "weights for nothing": (
        ("run", "--lpips", "st_alex", "--lpips-weights", "x.json"),
        "goes with --lpips alex or vgg",
    ),
    "a download of nothing": (("run", "--lpips", "st_alex", "--download"), "--download goes with"),
    "a plot of another kind": (("run", "--rate-plot", "x.gif"), "a plot is a .png, .svg or .pdf file"),
    "a CLIP score of nothing": (("run", "--clip-score", "vit_b32"), "--clip-score goes with --frechet and --samples"),
    "weights of no CLIP": (("run", "--clip-weights", "x.json"), "--clip-weights goes with --clip-score"),
    "a CLIP of no captions": (
        ("run", "--frechet", LITE0, "--samples", "5", "--clip-score", "vit_l14"),
        "--clip-score needs a model of captions: this one takes none",
    ),
    "guidance of nothing": (("run", "--frechet", LITE0, "--guidance", "2"), "go with --samples"),
    "statistics of no network": (
        ("run", *QUICK, "--frechet", LITE0, "--samples", "5", "--reference-statistics", "x.json"),
        "x.json: not an .npz file",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(ulzoo, run, here, monkeypatch, case):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(here / "cache"))
    (here / "x.json").write_text("{}")
    (here / "y.json").write_text("{")
    args, words = MISTAKES[case]
    result = ulzoo("evaluate", *args)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and words in result.stderr and result.stderr.count("\n") == 1
