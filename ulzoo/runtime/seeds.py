"""One way to make a seed out of what it depends on."""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, on its type and on the order: the same on every machine and run.

    `derive_seed(seed, "latents", n)` gives each image counter `n` of a stage its own independent randomness, so that
    a run resumed at `n` needs no saved generator.
    """
    assert all(type(part) in (int, str) for part in parts), parts  # whose repr no library and no version changes
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
