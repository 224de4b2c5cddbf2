"""`ulzoo export --codec`, `ulzoo compress` and `ulzoo decompress`."""

import pytest
import torch
from PIL import Image

import ulzoo as library
from ulzoo.files import tensor_file


@pytest.fixture
def model(ulzoo, run, here, monkeypatch):
    """An export with a codec that is measured in less than a second."""
    monkeypatch.setattr("ulzoo.registry.runs.compress.MEASURED_IMAGES", 2)
    monkeypatch.setattr("ulzoo.coding.grid.LEVELS", 9)
    monkeypatch.setattr("ulzoo.coding.codec.CODEBOOK_NUMBERS", 1024)
    monkeypatch.setattr("ulzoo.coding.codec.PLANNED_STEPS", 6)
    result = ulzoo("export", "run", "--codec", "--out", "model.safetensors")
    assert result.exit_code == 0, result.stderr
    for number, size in enumerate([(32, 32), (32, 32), (40, 37)]):
        Image.effect_mandelbrot(size, (-2, -1, 1, 1), 10 + number).convert("RGB").save(f"{number}.png")
    return "model.safetensors"


def test_files_and_back(ulzoo, model, here):
    result = ulzoo("compress", model, "0.png", "1.png", "2.png", "--out", "streams", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3 and all(line.endswith("bits/pixel") for line in lines)
    size = (here / "streams" / "0.ulz").stat().st_size
    assert lines[0] == f"streams/0.ulz: {size:,} bytes, {8 * size / 1024:.3f} bits/pixel"
    files = [f"streams/{number}.ulz" for number in range(3)]
    result = ulzoo("decompress", model, *files, "--out", "images", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert set(result.stdout.split()) == {f"images/{number}.png" for number in range(3)}
    assert [Image.open(here / f"images/{number}.png").size for number in range(3)] == [(32, 32), (32, 32), (40, 37)]
    prefix = ulzoo("decompress", model, files[0], "--prefix", 20, "--out", "prefix", "--progressive", "p.gif")
    assert prefix.exit_code == 0 and prefix.stdout.split() == ["prefix/0.png", "p.gif"], prefix.stderr
    assert Image.open(here / "p.gif").n_frames > 1
    assert (here / "prefix/0.png").read_bytes() != (here / "images/0.png").read_bytes()


def test_mistakes_are_one_line(ulzoo, model, here):
    assert ulzoo("compress", model, "0.png", "1.png", "--bits", 200, "--out", ".").exit_code == 0
    assert (here / "0.ulz").stat().st_size <= 25
    (here / "cut.ulz").write_bytes((here / "0.ulz").read_bytes()[:-3])
    (here / "other").mkdir()
    (here / "other" / "0.png").write_bytes((here / "0.png").read_bytes())
    for arguments, message in (
        (("decompress", model, "1.ulz", "cut.ulz", "--out", "new"), "cut.ulz: truncated or damaged, "),
        (("decompress", model, "0.png", "--out", "new"), "0.png: not a stream of ulzoo compress"),
        (("decompress", "emoji32_tiny", "0.ulz", "--out", "new"), "0.ulz: compressed by another model ("),
        (("decompress", model, "absent.ulz", "--out", "new"), "absent.ulz: no such file"),
        (
            ("decompress", model, "0.ulz", "--out", "new", "--progressive", "x.png"),
            "x.png: the animation is written as",
        ),
        (("compress", model, "0.png", "other/0.png", "--out", "new"), "other/0.png: 0.png is written to new/0.ulz too"),
        (("compress", model, "0.png", "--bits", 9, "--out", "new"), "bits, its header, not 9"),
        (("compress", model, "0.ulz", "--out", "new"), "0.ulz: not an image"),
        (("compress", "run", "0.png", "--out", "new"), "this model has no codec: `ulzoo export MODEL --codec"),
    ):
        result = ulzoo(*arguments)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
        assert message in result.stderr and not list(here.glob("new/*.png"))


def test_the_codec_of_an_export(ulzoo, model, here):
    """It is part of the file, also in another precision, whose weights are another model's."""
    assert library.load(model).codec is not None
    result = ulzoo("export", model, "--dtype", "bfloat16", "--out", "half.safetensors")
    assert result.exit_code == 0 and library.load("half.safetensors").codec == library.load(model).codec
    [stream] = library.load(model).compress(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="compressed by another model"):
        library.load("half.safetensors").decompress([stream])
    result = ulzoo("export", "half.safetensors", "--codec", "--out", "again.safetensors")
    metadata = tensor_file.read_metadata(here / "again.safetensors")
    assert result.exit_code == 0 and metadata["dtype"] == "bfloat16" and metadata["codec"]["index_bits"] == 4
    damaged = metadata | {"codec": {"logsnrs": [1, 2]}}
    tensor_file.write(here / "bad.safetensors", tensor_file.read(here / model).tensors, damaged)
    with pytest.raises(ValueError, match=r"bad.safetensors: damaged \(a codec must have whole index_bits"):
        library.load("bad.safetensors")
