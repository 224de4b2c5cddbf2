"""Images of users as a model's tensors: the pixels that training would have seen, from every kind of input."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import ulzoo
from ulzoo.data.images.decode import UnreadableImage, square

SIDE = 16


def model(shape=(3, SIDE, SIDE)):
    return SimpleNamespace(image_shape=shape, device=torch.device("cpu"))


def picture(width=40, height=30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected(array: np.ndarray) -> torch.Tensor:
    pixels = np.asarray(square(Image.fromarray(array), SIDE)).astype(np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def test_every_kind_of_image_has_the_pixels_of_training(tmp_path):
    array = picture()
    Image.fromarray(array).save(path := tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    inputs = [path, str(path), Image.fromarray(array), array, tensor, tensor / 255, array / 255.0]
    x = ulzoo.preprocess(inputs, model())
    assert x.shape == (len(inputs), 3, SIDE, SIDE) and x.dtype == torch.float32
    assert all(torch.equal(image, expected(array)) for image in x)
    assert torch.equal(ulzoo.preprocess(path, model()), x[:1])
    assert torch.equal(ulzoo.preprocess(np.stack([array, array]), model()), x[:2])
    assert torch.equal(ulzoo.preprocess([array, torch.stack([tensor, tensor])], model()), x[:3])


def test_grey_and_transparent_images():
    grey = picture()[..., 0]
    assert torch.equal(ulzoo.preprocess(grey, model())[0], expected(np.stack([grey] * 3, -1)))
    clear = np.dstack([picture(), np.zeros((30, 40), np.uint8)])
    assert torch.equal(ulzoo.preprocess(clear, model()), torch.ones(1, 3, SIDE, SIDE))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (picture().astype(np.int64), "uint8 in .* or float in .*, got int64"),
        (picture() / 1.0, "float images must be in .* got 0 to 255"),
        (np.full((4, 4, 3), np.nan), "float images must be in"),
        (np.zeros((4, 4, 5), np.uint8), "an array of an image must have shape"),
        (np.zeros((0, 4, 3), np.uint8), "an array of an image must have shape"),
        (torch.zeros(4, 4), "a tensor of images must have shape"),
        ([], "there are no images"),
        ([3], "images must be paths, PIL images, arrays or tensors, got int"),
        (3, "images must be paths, PIL images, arrays or tensors, got int"),
    ],
)
def test_what_is_no_image(images, message):
    with pytest.raises(ValueError, match=message):
        ulzoo.preprocess(images, model())


def test_files_and_models_that_do_not_fit(tmp_path):
    (path := tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"a\.png"):
        ulzoo.preprocess(path, model())
    for shape in ((1, SIDE, SIDE), (3, 4, SIDE, SIDE)):
        with pytest.raises(ValueError, match="for models of square RGB images"):
            ulzoo.preprocess(picture(), model(shape))


def test_to_pil_is_the_inverse():
    array = picture(SIDE, SIDE)
    assert np.array_equal(np.asarray(ulzoo.to_pil(ulzoo.preprocess(array, model()))[0]), array)
    assert [image.mode for image in ulzoo.to_pil(torch.zeros(2, 1, 4, 4))] == ["L", "L"]
    assert ulzoo.to_pil(torch.full((3, 4, 4), 7.0))[0].getpixel((0, 0)) == (255, 255, 255)
    for bad in (torch.zeros(4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="x must be floating point"):
            ulzoo.to_pil(bad)
