"""Seeds derived from everything that the randomness depends on."""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on the value, type and order of all parts, the same on every machine and in every run.

    `derive_seed(seed, "latents", n)` gives every image counter `n` of a stage independent randomness, so that
    a run resumed at `n` needs no saved generator.
    """
    assert all(type(part) in (int, str) for part in parts), parts  # their repr is stable across versions
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
