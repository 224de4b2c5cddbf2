"""Random numbers that encoder and decoder share: any vector of any codebook by its position, the same on every machine.

Philox (Salmon et al. 2011) maps a key and a counter to integers. Sixteen of their bits number an entry of a table of
normal quantiles, whose values are multiples of 2^-14. So no floating-point arithmetic takes part, and vector 5,000 of a
codebook is computed without the vectors before it.
"""

import hashlib
from enum import IntEnum
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

QUANTILES = 2**16
RESOLUTION = 2**14  # quantiles are multiples of its inverse, so that the last bits of a logarithm do not matter
COUNTER_WORDS = 4  # 64-bit integers for each value of Philox's counter
NORMALS_PER_COUNTER = 4 * COUNTER_WORDS

Normals = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Purpose(IntEnum):
    """What random numbers are for; each has counters of its own."""

    START = 0
    CODEBOOK = 1
    PERMUTATION = 2
    ARRIVALS = 3


@cache
def normal_quantiles() -> Normals:
    """The normal quantiles of (i + ½) / 65536, (65536,), rounded to multiples of 2^-14."""
    upper = [NormalDist().inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES // 2, QUANTILES)]
    rounded = np.round(np.array(upper) * RESOLUTION) / RESOLUTION
    return np.concatenate([-rounded[::-1], rounded]).astype(np.float32)


class SharedRandomness:
    """The random numbers of one stream.

    Args:
        model: hash of the model.
        seed: seed of the stream, at least 0.
    """

    def __init__(self, model: str, seed: int) -> None:
        digest = hashlib.sha256(f"ulzoo codec {model} {seed}".encode()).digest()
        self._key = int.from_bytes(digest[:16], "little")

    def start(self, dimensions: int) -> Normals:
        """Standard normal noise that the process starts from, (dimensions,)."""
        return self._normals(Purpose.START, 0, 0, 0, dimensions)[0]

    def codebook(self, step: int, block: int, dimensions: int, vectors: int) -> Normals:
        """The first `vectors` of a codebook, (vectors, dimensions)."""
        return self._normals(Purpose.CODEBOOK, step, block, 0, dimensions, vectors)

    def vector(self, step: int, block: int, dimensions: int, index: int) -> Normals:
        """Vector `index` of that codebook, (dimensions,)."""
        return self._normals(Purpose.CODEBOOK, step, block, index, dimensions)[0]

    def permutation(self, step: int, dimensions: int) -> Integers:
        """A permutation of the dimensions, (dimensions,)."""
        words = self._integers(Purpose.PERMUTATION, step, 0, 0, dimensions)
        return np.argsort(words, kind="stable")

    def arrivals(self, step: int, block: int, count: int) -> npt.NDArray[np.float64]:
        """The first arrival times of a Poisson process of rate 1, (count,); only the encoder needs them."""
        words = self._integers(Purpose.ARRIVALS, step, block, 0, count)
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
        return np.cumsum(-np.log(uniform))

    def _normals(
        self, purpose: Purpose, step: int, block: int, first: int, dimensions: int, vectors: int = 1
    ) -> Normals:
        """Vectors `first`, …, each of which starts at a new value of the counter, (vectors, dimensions)."""
        counters = -(-dimensions // NORMALS_PER_COUNTER)
        words = self._integers(purpose, step, block, first * counters, vectors * counters * COUNTER_WORDS)
        numbers = words.astype("<u8", copy=False).view("<u2").reshape(vectors, -1)
        return normal_quantiles()[numbers[:, :dimensions]]

    def _integers(self, purpose: Purpose, step: int, block: int, first: int, count: int) -> npt.NDArray[np.uint64]:
        """`count` integers of 64 bits from the counter (purpose, step, block, first) on."""
        counter = first + (block << 64) + (step << 128) + (int(purpose) << 192)
        return np.random.Philox(key=self._key, counter=counter).random_raw(count)
