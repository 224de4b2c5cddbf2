"""The format of a compressed latent: a header, checked by itself, and the bits of the indices, which may end anywhere.

| bytes | content |
|---|---|
| 2 | "UZ" |
| 1 | version (4 bits), flags: rule, image size, fewer steps than planned, several blocks |
| 4 | first bytes of the hash of the model |
| 1 or more each | seed, steps planned; as the flags say: height and width, steps stored, blocks |
| 1 or more each | in version 2 only, of a variable-rate model: the number of rate controls, and each of them |
| 1 | check of the header |
| 2 | CRC of the indices |
| the rest | indices, step by step, padded by zeros to whole bytes |

Numbers are unsigned, 7 bits a byte from the lowest on, the eighth set if more follow. No length depends on a
floating-point number, so machines that compute in slightly different ways read the same indices.
"""

import binascii
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ulzoo.coding.process import CodingPlan, StepIndices
from ulzoo.coding.simulation import FixedLengthCode, IndexCode, Rule

MAGIC = b"UZ"
VERSION = 2  # 1 without rate controls
MAX_BYTES = 2**22
MAX_SEED, MAX_STEPS, MAX_BLOCKS, MAX_SIDE, MAX_PIXELS = 2**63 - 1, 2**12, 2**12, 2**13, 2**22
MAX_CONTROLS, MAX_LEVEL = 2, 1000
_SIZE, _CUT, _BLOCKS = 2, 4, 8  # flags; the rule is the lowest bit


class DamagedStream(ValueError):
    """Bytes that are no stream, or one that is damaged, truncated, of another model or of a newer version.

    Attributes:
        reason: without the number of the stream.
        number: which of several streams it is, from 0.
    """

    def __init__(self, reason: str, number: int = 0, count: int = 1) -> None:
        super().__init__(f"stream {number}: {reason}" if count > 1 else reason)
        self.reason, self.number = reason, number


@dataclass(frozen=True)
class Header:
    """What a stream says about itself.

    Attributes:
        model: hash of the model, 8 hexadecimal digits.
        seed: seed of the shared randomness.
        rule: how indices were chosen, and so how they are coded.
        plan: steps and blocks of the process.
        stored: number of steps whose indices are stored.
        size: (height, width) of an image that is not of the model's size.
        crc: of the bytes of the indices.
        rate: loss factor and bias of a variable-rate model, as levels of their ranges; empty for other models.
    """

    model: str
    seed: int
    rule: Rule
    plan: CodingPlan
    stored: int
    size: tuple[int, int] | None = None
    crc: int = 0
    rate: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        """The header as in the stream."""
        cut, blocks = self.stored < self.plan.steps, self.plan.blocks > 1
        flags = self.rule | _SIZE * (self.size is not None) | _CUT * cut | _BLOCKS * blocks
        numbers = [self.seed, self.plan.steps, *(self.size or ()), *[self.stored] * cut, *[self.plan.blocks] * blocks]
        numbers += [len(self.rate), *self.rate] if self.rate else []
        version = 2 if self.rate else 1
        head = MAGIC + bytes([version << 4 | flags]) + bytes.fromhex(self.model) + b"".join(map(_varint, numbers))
        return head + bytes([_check(head)]) + self.crc.to_bytes(2, "big")


def write_stream(
    header: Header, indices: Sequence[StepIndices], code: IndexCode | FixedLengthCode, max_bits: int | None = None
) -> tuple[bytes, Header]:
    """A stream of at most `max_bits`, of as many steps as fit, and its header.

    Raises:
        ValueError: the header alone is longer.
    """
    steps = ["".join(map(code.write, step)) for step in indices]
    stored = len(steps)
    while True:
        bits = "".join(steps[:stored])
        payload = int("1" + bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8) + 1, "big")[1:]
        header = replace(header, stored=stored, crc=_crc(payload))
        stream = header.to_bytes() + payload
        if max_bits is None or 8 * len(stream) <= max_bits:
            return stream, header
        if not stored:
            raise ValueError(f"a stream has at least {8 * len(stream)} bits, its header, not {max_bits}")
        stored -= 1


def read_header(stream: bytes) -> tuple[Header, int]:
    """The header of a stream and its length in bytes. Raises DamagedStream."""
    if stream[:2] != MAGIC[: len(stream)]:
        raise DamagedStream("not a stream of ulzoo compress")
    if len(stream) > MAX_BYTES:
        raise DamagedStream(f"damaged, a stream has at most {MAX_BYTES:,} bytes")
    if len(stream) < 3:
        raise DamagedStream("truncated within its header")
    version, flags = stream[2] >> 4, stream[2] & 15
    if version > VERSION:
        raise DamagedStream(f"written in version {version}, this ulzoo reads version {VERSION}; upgrade ulzoo")
    position = 7
    numbers: list[int] = []
    for _ in range(2 + 2 * bool(flags & _SIZE) + bool(flags & _CUT) + bool(flags & _BLOCKS)):
        number, position = _read_varint(stream, position)
        numbers.append(number)
    rate: list[int] = []
    if version == 2:
        controls, position = _read_varint(stream, position)
        for _ in range(min(controls, MAX_CONTROLS)):
            number, position = _read_varint(stream, position)
            rate.append(number)
    if len(stream) < position + 3:
        raise DamagedStream("truncated within its header")
    if version not in (1, 2) or stream[position] != _check(stream[:position]):
        raise DamagedStream("damaged in its header")
    seed, steps, *rest = numbers
    size = (rest.pop(0), rest.pop(0)) if flags & _SIZE else None
    stored = rest.pop(0) if flags & _CUT else steps
    plan = CodingPlan(steps, rest.pop(0) if flags & _BLOCKS else 1)
    if version == 2 and not (1 <= controls <= MAX_CONTROLS and max(rate) <= MAX_LEVEL):
        raise DamagedStream("damaged in its header")
    if seed > MAX_SEED or not 1 <= steps <= MAX_STEPS or stored > steps or not 1 <= plan.blocks <= MAX_BLOCKS:
        raise DamagedStream("damaged in its header")
    if size and (min(size) < 1 or max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS):
        raise DamagedStream("damaged in its header")
    crc = int.from_bytes(stream[position + 1 : position + 3], "big")
    return Header(stream[3:7].hex(), seed, Rule(flags & 1), plan, stored, size, crc, tuple(rate)), position + 3


def read_indices(
    stream: bytes, header: Header, start: int, code: IndexCode | FixedLengthCode, *, prefix: bool
) -> list[StepIndices]:
    """The indices of all steps, or of those that a prefix of a stream contains completely.

    Args:
        stream: the bytes.
        header: its header.
        start: length of the header in bytes.
        code: of the indices.
        prefix: the stream may end anywhere, and is verified only if it does not.

    Raises:
        DamagedStream: the stream is truncated or does not match its CRC.
    """
    payload = stream[start:]
    bits = f"{int.from_bytes(b'1' + payload, 'big'):b}"[6:]  # all of the payload's, after those of "1"
    position = 0
    steps: list[StepIndices] = []
    while len(steps) < header.stored:
        step: StepIndices = []
        while len(step) < header.plan.blocks and (item := code.read(bits, position)):
            step.append(item[0])
            position = item[1]
        if len(step) < header.plan.blocks:
            break
        steps.append(step)
    complete = len(steps) == header.stored
    if not complete and not prefix:
        raise DamagedStream(f"truncated or damaged, {len(steps)} of {header.stored} steps; a prefix can be decoded")
    if complete and (len(payload) != -(-position // 8) or _crc(payload) != header.crc):
        raise DamagedStream("damaged, its indices do not match their CRC")
    return steps


def _varint(number: int) -> bytes:
    rest = bytearray()
    while number > 127:
        rest.append(number & 127 | 128)
        number >>= 7
    return bytes([*rest, number])


def _read_varint(stream: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(stream):
            raise DamagedStream("truncated within its header")
        byte = stream[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise DamagedStream("damaged in its header")


def _crc(content: bytes) -> int:
    return binascii.crc_hqx(content, 0xFFFF)


def _check(head: bytes) -> int:
    """One byte that all bits of the header determine."""
    crc = _crc(head)
    return crc >> 8 ^ crc & 255
