"""Labelled grids: sizes, pixels, labels, grey images."""

import pytest
import torch
from PIL import Image, ImageChops

from ulzoo.visualization import image_grid, save_grid


def colours(n: int, side: int = 8, channels: int = 3) -> torch.Tensor:
    """n images of one colour each, a fraction i / n of white."""
    return torch.linspace(-1, 1, n + 1)[:-1].reshape(n, 1, 1, 1).expand(n, channels, side, side)


@pytest.fixture
def grid(tmp_path):
    """grid(rows): the image that is saved."""

    def save(rows, **options) -> Image.Image:
        save_grid(tmp_path / "deep" / "grid.png", rows, **options)
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["grid.png"]
        with Image.open(tmp_path / "deep" / "grid.png") as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            return image.copy()

    return save


def test_small_images_are_scaled_by_an_integer_and_large_ones_unchanged(grid):
    for side, shown in ((8, 96), (32, 96), (90, 180), (100, 100)):
        assert grid([("", colours(3, side))]).size == (4 + 3 * (shown + 4), 4 + shown + 4)
    assert grid([("", colours(3, 8))], min_side=1).size == (4 + 3 * 12, 16)


def test_pixels_are_in_place_and_sharp(grid):
    x = torch.full((1, 3, 2, 2), -1.0)
    x[0, :, 0, 1] = torch.tensor([1.0, 0.0, -1.0])
    image = grid([("", x)], min_side=20)
    inside = image.crop((4, 4, 24, 24))
    assert inside.getpixel((9, 9)) == inside.getpixel((10, 10)) == (0, 0, 0)
    assert inside.getpixel((10, 9)) == inside.getpixel((19, 0)) == (255, 128, 0)
    assert image.getpixel((24, 4)) == image.getpixel((3, 4)) == (255, 255, 255)


def test_a_label_takes_space_and_is_written(grid):
    black = torch.full((2, 3, 96, 96), -1.0)
    plain, labelled = grid([("", black)]), grid([("label", black)])
    assert labelled.height == plain.height + 22
    band = labelled.crop((0, 0, labelled.width, 24))
    assert (
        min(
            band.convert("L").get_flattened_data()
            if hasattr(band, "get_flattened_data")
            else band.convert("L").getdata()
        )
        < 100
    )
    assert (
        labelled.crop((0, 26, labelled.width, labelled.height)).tobytes()
        == plain.crop((0, 4, plain.width, plain.height)).tobytes()
    )


def test_a_long_label_widens_the_sheet(grid):
    assert grid([("a very long label indeed", colours(1))]).width > grid([("", colours(1))]).width


def test_rows_of_different_lengths(grid):
    image = grid([("", colours(3)), ("", colours(1))])
    assert image.size == (4 + 3 * 100, 4 + 2 * 100)
    assert image.getpixel((150, 150)) == (255, 255, 255)


def test_grey_images(grid):
    image = grid([("", colours(2, channels=1))])
    assert image.getpixel((10, 10)) == (0, 0, 0)
    assert image.getpixel((110, 10)) == (128, 128, 128)


def test_values_beyond_the_range_are_clipped(grid):
    assert grid([("", torch.full((1, 3, 8, 8), 3.0))]).getpixel((10, 10)) == (255, 255, 255)


def test_a_frame_is_drawn_around_images_and_not_over_them():
    rows = [("", colours(3)), ("second", colours(3))]
    plain, framed = image_grid.grid(rows), image_grid.grid(rows, framed=[0, 2])
    orange = (0xE8, 0x59, 0x0C)
    assert plain.size == framed.size
    second = 4 + 96 + 4 + 22  # the top of the second row's images
    for x in (1, 102, 201):
        assert framed.getpixel((x, second + 50)) == orange and plain.getpixel((x, second + 50)) == (255, 255, 255)
    assert framed.getpixel((302, second + 50)) == (255, 255, 255)
    changed = ImageChops.difference(plain, framed)
    for j in range(3):
        assert changed.crop((4 + 100 * j, second, 100 + 100 * j, second + 96)).getbbox() is None
    assert changed.crop((0, 0, plain.width, second - 3)).getbbox() is None
