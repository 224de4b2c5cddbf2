"""The format of streams: what comes back, from any prefix, and what is refused."""

from random import Random

import pytest

from ulzoo.coding.process import CodingPlan
from ulzoo.coding.simulation import FixedLengthCode, IndexCode, Rule, huffman_lengths
from ulzoo.coding.stream import DamagedStream, Header, read_header, read_indices, write_stream

CODES = {Rule.PROJECTION: FixedLengthCode(5), Rule.POISSON: IndexCode(huffman_lengths(range(32), 5))}
STEPS = [[3 * i % 32, i] for i in range(20)]


def stream_of(rule: Rule, *, max_bits: int | None = None, size: tuple[int, int] | None = (40, 300)) -> bytes:
    header = Header("01234567", 300, rule, CodingPlan(20, 2), 20, size)
    return write_stream(header, STEPS, CODES[rule], max_bits)[0]


def read(stream: bytes, *, prefix: bool = False) -> tuple[Header, list[list[int]]]:
    header, start = read_header(stream)
    return header, read_indices(stream, header, start, CODES[header.rule], prefix=prefix)


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("size", [None, (40, 300)])
def test_what_comes_back(rule: Rule, size: tuple[int, int] | None) -> None:
    header, steps = read(stream_of(rule, size=size))
    assert steps == STEPS
    assert (header.model, header.seed, header.rule, header.size) == ("01234567", 300, rule, size)
    assert header.plan == CodingPlan(20, 2) and header.stored == 20


def test_the_size_is_that_of_header_and_indices() -> None:
    small = Header("01234567", 0, Rule.PROJECTION, CodingPlan(20), 20)
    stream, _ = write_stream(small, [[i] for i in range(20)], CODES[Rule.PROJECTION])
    assert read_header(stream)[1] == 12 and len(stream) == 12 + 20 * 5 // 8 + 1


@pytest.mark.parametrize("rule", Rule)
def test_every_prefix_contains_its_first_steps(rule: Rule) -> None:
    stream = stream_of(rule)
    _, start = read_header(stream)
    counts = []
    for end in range(start, len(stream) + 1):
        steps = read(stream[:end], prefix=True)[1]
        assert steps == STEPS[: len(steps)]
        counts.append(len(steps))
        if end < len(stream):
            with pytest.raises(DamagedStream):
                read(stream[:end])
    assert counts[0] == 0 and counts[-1] == 20 and counts == sorted(counts)
    for end in range(start):
        with pytest.raises(DamagedStream, match=r"header|not a stream"):
            read(stream[:end], prefix=True)


@pytest.mark.parametrize("rule", Rule)
def test_a_limit_of_bits(rule: Rule) -> None:
    for limit in range(8 * 18, 8 * 40, 8):
        stream = stream_of(rule, max_bits=limit)
        header, steps = read(stream)
        assert 8 * len(stream) <= limit and steps == STEPS[: header.stored]
    with pytest.raises(ValueError, match=r"at least 144 bits, its header, not 100"):
        stream_of(rule, max_bits=100)


def test_other_files_and_newer_versions() -> None:
    stream = bytearray(stream_of(Rule.POISSON))
    for content, message in (
        (b"\x89PNG\r\n", "not a stream of ulzoo compress"),
        (b"", "truncated within its header"),
        (bytes(stream) + b"\0", "damaged, its indices"),
        (bytes(stream) + bytes(2**22), "damaged, a stream has at most 4,194,304 bytes"),
        (bytes([*stream[:2], 0x30 | stream[2] & 15, *stream[3:]]), "version 3, this ulzoo reads version 2; upgrade"),
    ):
        with pytest.raises(DamagedStream, match=message):
            read(content)


@pytest.mark.parametrize("rule", Rule)
def test_damage_is_found_or_harmless(rule: Rule) -> None:
    """10,000 damaged streams: all are refused when the whole is read; a prefix is refused or has indices in range."""
    random, refused = Random(0), 0
    original = stream_of(rule)
    for _ in range(5000):
        stream = bytearray(original)
        for _ in range(random.choice((1, 1, 2, 8))):
            stream[random.randrange(len(stream))] ^= 1 << random.randrange(8)
        for prefix in (False, True):
            end = random.randrange(len(stream)) if prefix else len(stream)
            try:
                header, steps = read(bytes(stream[:end]), prefix=prefix)
            except DamagedStream as error:
                assert "\n" not in str(error)
                refused += not prefix
            else:
                assert all(len(step) == header.plan.blocks and 0 <= min(step) < 64 for step in steps)
    assert refused >= 4950
