import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ulzoo.runtime.seeds import derive_seed

PARTS = st.lists(st.integers() | st.text(), max_size=4)


def test_seeds_never_change() -> None:
    assert derive_seed(0, "latents", 64) == 5649598380149533242  # or earlier runs could not be resumed


@given(PARTS, PARTS)
def test_seeds_differ_if_a_part_differs(a: list[int | str], b: list[int | str]) -> None:
    assert (derive_seed(*a) == derive_seed(*b)) == (a == b)


@given(PARTS)
def test_torch_accepts_the_seeds(parts: list[int | str]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    torch.Generator().manual_seed(seed)


def test_bits_are_unbiased() -> None:
    seeds = [derive_seed(7, "flip", n) for n in range(4000)]
    for bit in range(63):
        assert 1800 < sum(seed >> bit & 1 for seed in seeds) < 2200


def test_parts_with_an_unstable_repr_are_refused() -> None:
    with pytest.raises(AssertionError):
        derive_seed(0, 0.1)  # type: ignore[arg-type]
