"""What is measured after a training stands for all of the data, whatever its order."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ulzoo.data.source import DataContract, TensorSource
from ulzoo.registry import load_spec
from ulzoo.registry.runs import compress, validation


def sorted_by_class(classes: int, images: int) -> TensorSource:
    labels = [label for label in range(classes) for _ in range(images)]
    pixels = torch.tensor(labels).reshape(-1, 1, 1, 1).repeat(1, 3, 32, 32).byte()
    contract = DataContract(3, 32, classes)
    return TensorSource(pixels, labels=labels, keys=[str(i) for i in range(len(labels))], contract=contract)


def test_images_of_all_classes_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "measure", lambda model, source, config, on_progress: {"measured": source})
    spec, model, images = load_spec("emoji32_tiny"), SimpleNamespace(), sorted_by_class(10, 20)
    options: Any = {"limit": 40, "on_progress": None}
    measured = validation.validate(spec, model, images, None, **options)["measured"]  # type: ignore[arg-type]
    assert {measured[i].label for i in range(len(measured))} == set(range(10)) and len(measured) == 40


def test_images_of_all_classes_determine_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "codec_network", lambda model: None)
    monkeypatch.setattr(compress, "open_source", lambda spec, split: sorted_by_class(10, 100))
    monkeypatch.setattr(compress.compression, "measure_codec", lambda model, batches: torch.cat(batches))
    contract: Any = SimpleNamespace(video=False, batches=lambda n, size: [slice(0, n)])
    model: Any = SimpleNamespace(contract=contract, device=torch.device("cpu"))
    x: Any = compress.measure_codec(model, load_spec("emoji32_tiny"))
    assert len(x) == compress.MEASURED_IMAGES < 1000
    assert len(x[:, 0, 0, 0].unique()) == 10
