"""Commands with a variable-rate model: its curve, the search for a rate, pictures, and user errors in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.export import save_export

QUICK = ("--limit", 6, "--rate-samples", 1)


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory) -> Path:
    """An untrained model whose rate depends on the loss factor."""
    spec = tiny("decoder.weighting.loss_factor=[1, 4]", "sample.decoder.steps=1")
    model, generator = compile_model(spec), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path_factory.mktemp("variable") / "variable.safetensors"
    save_export(path, model.eval(), spec, {})
    return path


@pytest.fixture
def model(here, exported) -> str:
    """The name of that model in the working directory."""
    (here / "variable.safetensors").symlink_to(exported)
    return "variable.safetensors"


def read(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_curve_is_an_evaluation_at_each_loss_factor(ulzoo, model, here):
    files = ("--out", "curve.json", "--rate-distortion-plot", "curve.svg")
    printed = ulzoo("evaluate", model, *QUICK, "--loss-factor", "1,2,4", *files)
    assert printed.exit_code == 0, printed.stderr
    lines = printed.stdout.splitlines()
    assert lines[0] == f"{model} on 6 images of val, at each loss factor" and lines[-2:] == ["curve.svg", "curve.json"]
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == ["1", "2", "4"] and "PSNR" in printed.stdout
    assert (here / "curve.svg").stat().st_size > 1000
    curve = json.loads((here / "curve.json").read_text())["curve"]
    assert [row["loss_factor"] for row in curve] == [row["protocol"]["loss_factor"] for row in curve] == [1, 2, 4]
    assert len({row["figures"]["bits_per_pixel"] for row in curve}) == 3
    by_metric = {name: {row["hashes"][name] for row in curve} for name in curve[0]["hashes"]}
    same = {name for name, hashes in by_metric.items() if len(hashes) == 1}
    assert same == {"mean_image_psnr_db"} and all(len(by_metric[name]) == 3 for name in by_metric.keys() - same)

    default, last = (read(ulzoo("evaluate", model, *QUICK, *args, "--json")) for args in ((), ("--loss-factor", 4)))
    for single, row in ((default, curve[1]), (last, curve[2])):
        assert {key: single[key] for key in ("figures", "protocol", "hashes")}.items() <= row.items()
    (here / "last.json").write_text(json.dumps(last))
    (here / "default.json").write_text(json.dumps(default))
    compared = ulzoo("evaluate", "default.json", "last.json", "--compare")
    assert compared.exit_code == 1 and "loss_factor: 2.0 and 4.0" in compared.stdout
    refused = ulzoo("evaluate", "curve.json", "last.json", "--compare")
    assert refused.exit_code == 2 and "contains a curve over loss factors" in refused.stderr


def test_find_reaches_a_rate_and_a_psnr(ulzoo, model):
    outside = ulzoo("find", "--model", model, "--bits", 1e6)
    assert outside.exit_code == 2 and "is outside of what the loss factors 1 to 4 reach, " in outside.stderr
    low, high = map(float, outside.stderr.rpartition("reach, ")[2].split(" to "))
    target = (low + high) / 2
    search = read(ulzoo("find", "--model", model, "--bits", target, "--json"))
    assert search["figures"]["bits_per_pixel"] == pytest.approx(target, abs=0.03 * (high - low))
    assert sorted(search["measured"]) == pytest.approx([low, high], rel=1e-3)
    factor = search["loss_factor"]
    assert 1 < factor < 4 and search["command"] == f"ulzoo reconstruct {model} --loss-factor {factor:g}"
    again = read(ulzoo("evaluate", model, "--loss-factor", factor, "--json"))
    assert again["figures"] == search["figures"] and again["hashes"] == search["hashes"]
    printed = ulzoo("find", "--model", model, "--psnr", search["figures"]["psnr_db"], "--limit", 6)
    assert (
        printed.exit_code == 0 and f"{search['figures']['psnr_db']:.2f} dB PSNR, on 6 images of val" in printed.stdout
    )
    assert printed.stdout.splitlines()[-1].startswith(f"next  ulzoo reconstruct {model} --loss-factor ")


def test_find_on_your_own_images(ulzoo, model, here):
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(here / f"{i}.png")
    files = [argument for i in range(3) for argument in ("--images", f"{i}.png")]
    curve = read(ulzoo("evaluate", model, *files, "--loss-factor", "1,4", "--json"))["curve"]
    low, high = (row["figures"]["bits_per_pixel"] for row in curve)
    search = ulzoo("find", "--model", model, *files, "--bits", (low + high) / 2)
    assert search.exit_code == 0 and "on 3 images of your own" in search.stdout


def test_pictures_at_a_loss_factor(ulzoo, model, here):
    factors = {"default": (), "middle": ("--loss-factor", 2), "low": ("--loss-factor", 1)}
    for command, names in (("reconstruct", factors), ("sample", ("middle", "low"))):
        for name in names:
            result = ulzoo(command, model, "--n", 2, *factors[name], "--out", f"{name}.png")
            assert result.exit_code == 0, result.stderr
        default, middle, low = ((here / f"{name}.png").read_bytes() for name in factors)
        assert middle != low and (default == middle or command == "sample")


def test_show_names_the_range(ulzoo, model):
    result = ulzoo("show", model)
    assert result.exit_code == 0 and "variable rate  loss factors 1 to 4" in result.stdout


ONE_RATE = "emoji32_tiny: was trained at one loss factor, so --loss-factor has no effect"
MISTAKES = {
    "no numbers": (("evaluate", "MODEL", "--loss-factor", "1,x"), "--loss-factor 1,x: takes numbers with commas"),
    "a number twice": (("evaluate", "MODEL", "--loss-factor", "1,1"), "has the same number twice"),
    "outside": (("evaluate", "MODEL", "--loss-factor", "1,5"), "--loss-factor 5: MODEL was trained from 1 to 4"),
    "one bias": (("evaluate", "MODEL", "--bias", "1"), "MODEL: was trained at one bias, so --bias has no effect"),
    "a plot of one": (("evaluate", "MODEL", "--rate-distortion-plot", "x.png"), "goes with several loss factors"),
    "the bits of several": (("evaluate", "MODEL", "--loss-factor", "1,2", "--rate-plot", "x.png"), "one loss factor"),
    "milestones": (("evaluate", "MODEL", "--loss-factor", "1", "--milestones"), "leave out --loss-factor and --bias"),
    "to compare": (("evaluate", "MODEL", "x", "--loss-factor", "1", "--compare"), "--compare measures nothing"),
    "evaluate": (("evaluate", "emoji32_tiny", "--loss-factor", "2"), ONE_RATE),
    "reconstruct": (("reconstruct", "MODEL", "emoji32_tiny", "--loss-factor", "2"), ONE_RATE),
    "sample": (("sample", "emoji32_tiny", "--loss-factor", "2"), ONE_RATE),
    "encode": (("encode", "emoji32_tiny", "--loss-factor", "2", "--out", "x"), ONE_RATE),
    "compress": (("compress", "emoji32_tiny", "x.png", "--loss-factor", "2", "--out", "x"), ONE_RATE),
    "find, one rate": (("find", "--model", "emoji32_tiny", "--bits", "1"), "was trained at one loss factor"),
    "find, nowhere": (("find", "--bits", "1"), "give the folder of a sweep, or a variable-rate model as --model"),
    "find, both": (("find", "store", "--model", "MODEL", "--bits", "1"), "give the folder of a sweep or a model"),
    "find, a pilot": (("find", "--model", "MODEL", "--bits", "1", "--pilot"), "give one of them"),
    "find, two targets": (("find", "--model", "MODEL", "--bits", "1", "--psnr", "2"), "give one target"),
    "find, no target": (("find", "--model", "MODEL"), "give one target"),
    "find, not finite": (("find", "--model", "MODEL", "--psnr", "nan"), "the target is not a finite number"),
    "find, a limit": (("find", "store", "--bits", "1", "--limit", "3"), "--limit goes with --model"),
    "find, images": (("find", "store", "--bits", "1", "--images", "a.png"), "--images goes with --model"),
    "find, a share": (("find", "--model", "MODEL", "--bits", "1", "--share", "1"), "--share goes with --pilot"),
    "find, biases": (("find", "--model", "MODEL", "--bits", "1", "--bias", "1,2"), "one number with --model"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(ulzoo, model, case):
    args, words = MISTAKES[case]
    result = ulzoo(*(arg.replace("MODEL", model) for arg in args))
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and words.replace("MODEL", model) in result.stderr
