import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ulzoo.data.images.decode import UnreadableImage, read_rgb, square

RAMP = np.linspace(0, 255, 8 * 8).round().astype(np.uint8).reshape(8, 8)


def saved(image: Image.Image, path: Path, **options: Any) -> np.ndarray:
    image.save(path, **options)
    rgb = read_rgb(path)
    assert rgb.mode == "RGB"
    return np.asarray(rgb)


def test_rgb_is_unchanged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(saved(Image.fromarray(pixels), tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palettes(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(saved(image, tmp_path / "a.png"), expected)


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert np.array_equal(saved(image, tmp_path / "a.png"), np.repeat(RAMP[..., None], 3, -1))


def test_cmyk_keeps_its_colors(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    assert np.abs(saved(image, tmp_path / "a.jpg", quality=100).astype(int) - (200, 40, 90)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(tmp_path: Path, mode: str) -> None:
    grey = Image.new("L", (3, 1), 100)
    alpha = Image.fromarray(np.array([[0, 128, 255]], np.uint8))
    image = Image.merge(mode, [grey] * (len(mode) - 1) + [alpha])
    expected = [255, round(255 - 155 * 128 / 255), 100]
    assert np.abs(saved(image, tmp_path / "a.png")[0, :, 0].astype(int) - expected).max() <= 1


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    assert saved(image, tmp_path / "a.png", transparency=0).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.stack([RAMP[:4]] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed rotated by 90° clockwise
    turned = saved(image, tmp_path / "a.png", exif=exif)
    assert np.array_equal(turned, np.rot90(np.asarray(image), -1))


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return len(content).to_bytes(4, "big") + kind + content + crc.to_bytes(4, "big")

    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg(tmp_path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "complete.jpg")
    return (tmp_path / "complete.jpg").read_bytes()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "an empty file"), (b"hello", "not an image"), (bomb(), "decompression bomb"), (None, "truncated")],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str, fast: bool) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(jpeg(tmp_path)[:-500] if content is None else content)
    with pytest.raises(UnreadableImage, match=rf"bad\.jpg: .*{message}") as error:
        read_rgb(path, fast=fast)
    assert "\n" not in str(error.value)


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    for image in (Image.new("F", (2, 2), 0.5), Image.new("I", (2, 2), 70_000)):
        image.save(tmp_path / "a.tiff")
        with pytest.raises(UnreadableImage, match="no known range"):
            read_rgb(tmp_path / "a.tiff")


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_square_of_one_color_keeps_it(width: int, height: int, resolution: int) -> None:
    image = square(Image.new("RGB", (width, height), (10, 200, 77)), resolution)
    assert image.size == (resolution, resolution)
    assert image.getcolors() == [(resolution**2, (10, 200, 77))]


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_powers_of_two_are_exact_box_means_of_the_center(factor: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16 * factor, 20 * factor, 3), np.uint8)
    middle = pixels[:, 2 * factor : 18 * factor]
    boxes = middle.reshape(16, factor, 16, factor, 3).mean((1, 3))
    assert np.abs(np.asarray(square(Image.fromarray(pixels), 16)) - boxes).max() <= 0.5


def test_square_shrinks_like_adm() -> None:
    """Compared with the original's resize-then-crop on a smooth image."""
    y, x = np.mgrid[:150, :230] / 150
    smooth = np.stack([np.sin(3 * x), np.cos(5 * y), x * y / 2], -1)
    image = Image.fromarray((127.5 + 127.5 * smooth).clip(0, 255).astype(np.uint8))
    half = image.resize((115, 75), Image.Resampling.BOX)
    resized = half.resize((round(115 * 48 / 75), 48), Image.Resampling.BICUBIC)
    left = (resized.width - 48) // 2
    theirs = np.asarray(resized)[:, left : left + 48].astype(int)
    assert np.abs(np.asarray(square(image, 48)).astype(int) - theirs).mean() < 1.5


def test_a_long_thin_image_costs_no_more() -> None:
    assert square(Image.new("RGB", (60_000, 1)), 256).size == (256, 256)
