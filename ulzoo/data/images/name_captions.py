"""Captions for the emoji: their Unicode names, with one vector per word computed from its spelling, not by a model."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

TOKENS = 12
"""Tokens per caption; the longest names of embedded images have 11 words."""

WIDTH = 64

UNICODE_15 = {
    0x1F6DC: "WIRELESS",
    0x1FA75: "LIGHT BLUE HEART",
    0x1FA76: "GREY HEART",
    0x1FA77: "PINK HEART",
    0x1FA87: "MARACAS",
    0x1FA88: "FLUTE",
    0x1FAAD: "FOLDING HAND FAN",
    0x1FAAE: "HAIR PICK",
    0x1FAAF: "KHANDA",
    0x1FABB: "HYACINTH",
    0x1FABC: "JELLYFISH",
    0x1FABD: "WING",
    0x1FABF: "GOOSE",
    0x1FACE: "MOOSE",
    0x1FACF: "DONKEY",
    0x1FADA: "GINGER ROOT",
    0x1FADB: "PEA POD",
    0x1FAE8: "SHAKING FACE",
    0x1FAF7: "LEFTWARDS PUSHING HAND",
    0x1FAF8: "RIGHTWARDS PUSHING HAND",
}
"""Names added after Unicode 14, the version of Python 3.11, so that all Python versions compute the same captions."""

IGNORED = {0x200D, 0xFE0E, 0xFE0F, 0xE007F}  # zero-width joiner, variation selectors, end of tags
SKIN_TONES = range(0x1F3FB, 0x1F3FF + 1)
REGIONAL_INDICATORS = range(0x1F1E6, 0x1F1FF + 1)
TAGS = range(0xE0020, 0xE007F)  # letters that follow a black flag


def name_caption(key: str) -> Tensor:
    """The words of an emoji's name as (L, 64) float32 unit vectors.

    This is not a text encoder: vectors are similar if words are spelled similarly, whatever they mean. Each word is
    embedded independently, so that only the order of the rows encodes the order of the words. Among the embedded
    images, only one pair (23ed, 23ef) has the same words in different orders.
    """
    return torch.stack([word_vector(word) for word in name_words(key)])[:TOKENS]


def name_words(key: str) -> list[str]:
    """The lower-case words for code points in hexadecimal: "1f607" gives smiling, face, with, halo.

    The names of the code points are concatenated; joiners and variation selectors are ignored. A skin tone is "skin
    type-4"; the letters of a flag form one word, as in "flag de" or "waving black flag gbsct". A code point without a
    name in this Python's Unicode database is one word in hexadecimal.
    """
    return list(_words([int(point, 16) for point in key.split("-")]))


def _words(points: list[int]) -> Iterator[str]:
    for is_letter, run in groupby(points, lambda point: point in REGIONAL_INDICATORS or point in TAGS):
        if is_letter:
            letters = "".join(map(_letter, run))
            yield from ("flag", letters) if points[0] in REGIONAL_INDICATORS else (letters,)
            continue
        for point in run:
            if point in SKIN_TONES:
                yield from ("skin", unicodedata.name(chr(point)).lower().split()[-1])
            elif point not in IGNORED:
                name = UNICODE_15.get(point, unicodedata.name(chr(point), f"{point:x}"))
                yield from name.lower().split()


def _letter(point: int) -> str:
    return chr(point - 0xE0000) if point in TAGS else chr(ord("a") + point - REGIONAL_INDICATORS[0])


@cache
def word_vector(word: str) -> Tensor:
    """A (64,) float32 unit vector computed from the word's trigrams: words that share most of them are close.

    The word is delimited by "<" and ">". Each trigram is hashed to 64 signs, and their sum is normalized.
    """
    delimited = f"<{word}>"
    trigrams = [delimited[i : i + 3] for i in range(len(delimited) - 2)]
    signs = [np.unpackbits(np.frombuffer(_hash(trigram), np.uint8)).astype(np.float32) * 2 - 1 for trigram in trigrams]
    total = torch.from_numpy(np.sum(signs, axis=0))
    return total / total.norm()


def _hash(trigram: str) -> bytes:
    return hashlib.blake2b(trigram.encode(), digest_size=WIDTH // 8).digest()
