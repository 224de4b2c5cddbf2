"""What a model's export contains for its codec: the grid, the size of codebooks and the code of indices."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from ulzoo.coding.grid import InformationGrid
from ulzoo.coding.process import CodingPlan
from ulzoo.coding.simulation import FixedLengthCode, IndexCode, Rule

MAX_INDEX_BITS = 12
CODEBOOK_NUMBERS = 2**24  # of all blocks of a step together
PLANNED_STEPS = 128  # above, a step has several blocks
INFORMATION_PER_BIT = {Rule.POISSON: 1.2, Rule.PROJECTION: 1.08}
"""Bits of the latent's information that a step is planned for, times this, are the index bits.

Above 1 it makes up for what finite steps and codebooks lose: with these values the size is at most 1.1 times the ELBO,
in docs/codec.md. Indices of the Poisson functional representation take fewer bits than a number below K.
"""


@dataclass(frozen=True)
class Codec:
    """The codec of a model.

    Attributes:
        grid: log-SNRs of equal information.
        index_bits: logarithm of the number of vectors in a codebook.
        code_lengths: of the `IndexCode` of the rule POISSON.
    """

    grid: InformationGrid
    index_bits: int
    code_lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.index_bits <= MAX_INDEX_BITS or len(self.code_lengths) != self.index_bits + 1:
            raise ValueError("a codec has 1 to 12 index bits, and a length for each number of digits")
        IndexCode(self.code_lengths)

    def code(self, rule: Rule) -> IndexCode | FixedLengthCode:
        """The code of the rule's indices."""
        return IndexCode(self.code_lengths) if rule is Rule.POISSON else FixedLengthCode(self.index_bits)

    def plan(self, information: float, rule: Rule) -> CodingPlan:
        """The steps and blocks for a latent of this information in bits."""
        bits = max(information * INFORMATION_PER_BIT[rule], 1) if math.isfinite(information) else 1
        blocks = math.ceil(bits / (self.index_bits * PLANNED_STEPS))
        return CodingPlan(max(1, round(bits / (self.index_bits * blocks))), blocks)

    def hash(self, weights: str) -> str:
        """The model's hash in streams, 8 hexadecimal digits, from the SHA-256 of its weights."""
        return hashlib.sha256(f"{weights} {json.dumps(self.to_dict())}".encode()).hexdigest()[:8]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, for `from_dict`."""
        return {
            "logsnrs": list(self.grid.logsnrs),
            "index_bits": self.index_bits,
            "code_lengths": list(self.code_lengths),
        }

    @classmethod
    def from_dict(cls, values: Any) -> "Codec":
        """Raises ValueError unless `values` is what `to_dict` returns."""
        fields: list[Any] = [
            values.get(key) if isinstance(values, dict) else None for key in ("logsnrs", "code_lengths")
        ]
        logsnrs, lengths = (field if isinstance(field, list) else [None] for field in fields)
        if not all(isinstance(value, float | int) for value in logsnrs):
            raise ValueError("a codec must have a list of logsnrs")
        if not all(isinstance(value, int) for value in (*lengths, values.get("index_bits"))):
            raise ValueError("a codec must have whole index_bits and a list of whole code_lengths")
        return cls(InformationGrid(tuple(map(float, logsnrs))), values["index_bits"], tuple(map(int, lengths)))


def index_bits(dimensions: int) -> int:
    """The largest size of codebooks that is quickly searched in a latent of these dimensions."""
    return max(4, min(MAX_INDEX_BITS, int(math.log2(CODEBOOK_NUMBERS / dimensions))))
