from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

settings.register_profile("ulzoo", deadline=None)  # a first call may import, and a machine may be busy
settings.load_profile("ulzoo")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 44 training and 6 validation images in two classes: coloured gradients of 16×16 pixels."""
    root, rng = tmp_path_factory.mktemp("data") / "images", np.random.default_rng(0)
    for split, count in (("train", 44), ("val", 6)):
        for i in range(count):
            folder = root / split / ("even" if i % 2 == 0 else "odd")
            folder.mkdir(parents=True, exist_ok=True)
            corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            Image.fromarray(corners).resize((16, 16), Image.Resampling.BILINEAR).save(folder / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def tiny(images: Path) -> Callable:
    """The spec `tests/tiny.yaml` on those images, with overrides."""
    from ulzoo.registry import load_spec

    return lambda *overrides: load_spec(Path(__file__).parent / "tiny.yaml", [f"data.root={images}", *overrides])


@pytest.fixture(scope="session")
def tiny_video() -> Callable:
    """The spec `tests/tiny_video.yaml`, 8 frames of the embedded clips of which 3 are given, with overrides."""
    from ulzoo.registry import load_spec

    return lambda *overrides: load_spec(Path(__file__).parent / "tiny_video.yaml", overrides)
