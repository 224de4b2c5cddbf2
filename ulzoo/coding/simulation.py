"""Channel simulation: which vector of a shared codebook stands for a step of the process (arXiv 2206.08889).

Relative to the model's step, N(0, I), the target's is N(m, I), where m is the difference of the means in units of the
step's σ; so the step reveals ‖m‖²/2 nats. Two rules choose the vector, and each has its code for the index.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import IntEnum
from heapq import heapify, heappop, heappush

from torch import Tensor


class Rule(IntEnum):
    """How an index is chosen.

    Attributes:
        POISSON: the Poisson functional representation (Li and El Gamal 2018, arXiv 1701.02827), the index with the
            least T_k e^{-m·C_k} for arrival times T_k. As the codebook grows, the vector becomes a sample of the
            target. Early indices are likelier, and are coded by their magnitude.
        PROJECTION: the vector whose projection on the direction of m is closest to ‖m‖, that is, where none reaches so
            far, the maximum inner product (DDCM, arXiv 2502.01189). All indices have the same length.
    """

    POISSON = 0
    PROJECTION = 1


def choose(m: Tensor, codebook: Tensor, arrivals: Tensor | None) -> list[int]:
    """The index for each of B targets in one codebook.

    Args:
        m: means of the targets, (B, d).
        codebook: (K, d).
        arrivals: T_k of the Poisson functional representation, (K,); None for the rule PROJECTION.
    """
    products = m @ codebook.T  # (B, K)
    if arrivals is not None:
        return (arrivals.log() - products).argmin(1).tolist()
    return (products - m.square().sum(1, keepdim=True)).abs().argmin(1).tolist()


class IndexCode:
    """A prefix code of indices: the number of binary digits of index + 1, by a Huffman code, then all but the first.

    Args:
        lengths: bits of the codeword of each number of digits, from 1 to that of the last index.

    Raises:
        ValueError: no complete prefix code has these lengths.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        if not lengths or min(lengths) < 1 or max(lengths) > 64 or sum(2 ** (64 - n) for n in lengths) != 2**64:
            raise ValueError("the lengths of a codec's index code must be those of a complete prefix code")
        self.codewords: list[str] = [""] * len(lengths)
        self.digits: dict[str, int] = {}
        code = previous = 0
        for length, digits in sorted((length, digits) for digits, length in enumerate(lengths)):  # canonical
            code <<= length - previous
            word = f"{code:0{length}b}"
            self.codewords[digits], self.digits[word] = word, digits
            code, previous = code + 1, length

    def write(self, index: int) -> str:
        """The bits of an index, as a text of 0 and 1."""
        binary = f"{index + 1:b}"
        return self.codewords[len(binary) - 1] + binary[1:]

    def read(self, bits: str, position: int) -> tuple[int, int] | None:
        """The index at a position of the bits, and the position after it; None if the bits end before it does."""
        end = position
        while (digits := self.digits.get(bits[position:end])) is None:
            if (end := end + 1) > len(bits):
                return None
        if end + digits > len(bits):
            return None
        return int("1" + bits[end : end + digits], 2) - 1, end + digits


class FixedLengthCode:
    """The code of indices of `length` bits."""

    def __init__(self, length: int) -> None:
        self.length = length

    def write(self, index: int) -> str:
        """The bits of an index, as a text of 0 and 1."""
        return f"{index:0{self.length}b}"

    def read(self, bits: str, position: int) -> tuple[int, int] | None:
        """The index at a position of the bits, and the position after it; None if the bits end before it does."""
        end = position + self.length
        return None if end > len(bits) else (int(bits[position:end], 2), end)


def huffman_lengths(indices: Iterable[int], index_bits: int) -> tuple[int, ...]:
    """The lengths for an `IndexCode` that suit these indices, all below 2^index_bits.

    Indices up to 2^index_bits - 1 have up to index_bits + 1 digits, plus one. Every number of digits gets a codeword.
    """
    counts = Counter((index + 1).bit_length() - 1 for index in indices)
    lengths = [0] * (index_bits + 1)
    heap = [(counts[digits] + 1, digits, [digits]) for digits in range(index_bits + 1)]
    heapify(heap)
    while len(heap) > 1:
        (first, tie, left), (second, _, right) = heappop(heap), heappop(heap)
        for digits in left + right:
            lengths[digits] += 1
        heappush(heap, (first + second, tie, left + right))
    return tuple(lengths)
