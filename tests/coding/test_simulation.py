"""Channel simulation of Gaussians, whose means, variances and bits are known, and the codes of indices."""

import math

import pytest
import torch

from ulzoo.coding.randomness import SharedRandomness
from ulzoo.coding.simulation import FixedLengthCode, IndexCode, choose, huffman_lengths

SHARED = SharedRandomness("test", 0)


def simulate(m: torch.Tensor, vectors: int, trials: int, *, poisson: bool = True) -> tuple[torch.Tensor, list[int]]:
    """The chosen vectors, (trials, d), and their indices, each of a codebook of its own."""
    chosen, indices = [], []
    for trial in range(trials):
        codebook = torch.from_numpy(SHARED.codebook(trial, 0, len(m), vectors))
        arrivals = torch.from_numpy(SHARED.arrivals(trial, 0, vectors)).float() if poisson else None
        [index] = choose(m[None], codebook, arrivals)
        chosen.append(codebook[index])
        indices.append(index)
    return torch.stack(chosen), indices


def test_the_poisson_functional_representation_samples_the_target() -> None:
    m = torch.tensor([1.2, -0.7, 0.0])
    vectors, _ = simulate(m, 512, 1500)
    assert torch.allclose(vectors.mean(0), m, atol=0.1)
    assert torch.allclose(vectors.T.cov(), torch.eye(3), atol=0.15)


@pytest.mark.parametrize("bits", [1.0, 3.0])
def test_the_index_takes_about_the_bits_of_the_target(bits: float) -> None:
    """E[log2 index] is at most KL + log2(e)/e + 1 (Li and El Gamal 2018, without their code's part)."""
    m = torch.zeros(8)
    m[0] = math.sqrt(2 * bits * math.log(2))
    _, indices = simulate(m, 1024, 400)
    mean = sum(math.log2(index + 1) for index in indices) / len(indices)
    assert bits / 4 < mean < bits + 1.6


def test_a_projection_is_as_long_as_the_target_or_the_longest() -> None:
    m = torch.full((16,), 0.25)
    vectors, _ = simulate(m, 1024, 20, poisson=False)
    assert torch.allclose(vectors @ m, m.square().sum().expand(20), atol=0.02)
    codebook = torch.from_numpy(SHARED.codebook(0, 0, 16, 64))
    assert choose(100 * m[None], codebook, None) == [int((codebook @ m).argmax())]


@pytest.mark.parametrize("index_bits", [1, 4, 12])
def test_codes_of_indices(index_bits: int) -> None:
    indices = list(range(2**index_bits))
    for code in (FixedLengthCode(index_bits), IndexCode(huffman_lengths(indices, index_bits))):
        words = [code.write(index) for index in indices]
        bits, position, read = "".join(words), 0, []
        while item := code.read(bits, position):
            read.append(item[0])
            position = item[1]
        assert read == indices and position == len(bits)
        assert code.read(words[-1][:-1], 0) is None


def test_frequent_indices_are_short() -> None:
    code = IndexCode(huffman_lengths([0] * 90 + [5] * 10, 4))
    assert len(code.write(0)) == 1 and len(code.write(5)) < len(code.write(15))


@pytest.mark.parametrize("lengths", [(), (1,), (1, 1, 1), (2, 2), (0, 1), (1, 65), (-1, 1)])
def test_lengths_that_are_no_code(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="complete prefix code"):
        IndexCode(lengths)
