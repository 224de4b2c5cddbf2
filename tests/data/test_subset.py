"""Some examples that stand for all of a source, whatever its order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ulzoo.data.fingerprint import fingerprint
from ulzoo.data.source import DataContract, Placement, TensorSource
from ulzoo.data.subset import Subset, spread_out


def source(labels: list[int]) -> TensorSource:
    images = torch.arange(len(labels)).reshape(-1, 1, 1, 1).repeat(1, 3, 2, 2).byte()
    contract = DataContract(3, 2, max(labels) + 1)
    return TensorSource(images, labels=labels, keys=[str(i) for i in range(len(labels))], contract=contract)


@given(length=st.integers(1, 2000), share=st.floats(0.001, 0.999))
def test_one_example_is_drawn_from_each_of_equal_parts(length: int, share: float) -> None:
    count = max(1, int(length * share))
    subset = spread_out(source([0] * length), count)
    indices = subset.indices if isinstance(subset, Subset) else list(range(length))
    assert len(subset) == count == len(set(indices))
    assert all(i * length // count <= index < (i + 1) * length // count for i, index in enumerate(indices))


def test_a_source_without_more_examples_stays_as_it_is() -> None:
    everything = source([0, 1, 2])
    assert spread_out(everything, 3) is spread_out(everything, 9) is spread_out(everything, None) is everything


@pytest.mark.parametrize("labels", [sorted(list(range(8)) * 250), list(range(8)) * 250], ids=["sorted", "in turns"])
def test_all_classes_have_about_their_share(labels: list[int]) -> None:
    subset = spread_out(source(labels), 512)
    shares = [sum(subset[i].label == label for i in range(512)) / 512 for label in range(8)]
    assert max(shares) < 1.1 / 8 and min(shares) > 0.9 / 8


def test_examples_are_those_of_the_source() -> None:
    everything = source(list(range(100)))
    subset = spread_out(everything, 7)
    assert isinstance(subset, Subset)
    listed = list(subset.list_examples(5) or ())
    for i, index in enumerate(subset.indices):
        expected = everything[index]
        for sample in (subset[i], subset.draw(i, 0.5), subset.place(i, Placement())):
            assert sample.key == expected.key and torch.equal(sample.pixels, expected.pixels)
        assert subset.content(i) == everything.content(index)
    assert [entry.key for entry in listed] == [str(index) for index in subset.indices[:5]]


def test_its_fingerprint_is_that_of_its_examples() -> None:
    everything = source(list(range(100)))
    few, others = (fingerprint(spread_out(everything, count)).identity for count in (7, 8))
    assert few["examples"] == 7 and few["keys"] != others["keys"]
