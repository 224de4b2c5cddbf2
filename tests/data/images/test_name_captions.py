import itertools
import unicodedata

import pytest
import torch

from ulzoo.data import Emoji3D, batches
from ulzoo.data.images import name_captions
from ulzoo.data.images.name_captions import TOKENS, UNICODE_15, WIDTH, name_caption, name_words, word_vector


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("1f607", "smiling face with halo"),
        ("1f44d-1f3fe", "thumbs up sign skin type-5"),
        ("1f9d1-1f3ff-200d-2695-fe0f", "adult skin type-6 staff of aesculapius"),
        ("1f1e9-1f1ea", "flag de"),
        ("1f3f4-e0067-e0062-e0073-e0063-e0074-e007f", "waving black flag gbsct"),
        ("0023-fe0f-20e3", "number sign combining enclosing keycap"),
        ("1fae8", "shaking face"),
        ("e123", "e123"),
    ],
)
def test_words(key: str, words: str) -> None:
    assert name_words(key) == words.split()


def test_the_listed_names_agree_with_python_s_and_no_other_name_is_missing() -> None:
    keys = [key for split in ("train", "val") for key in Emoji3D(split, resolution=32).keys]
    points = {int(point, 16) for key in keys for point in key.split("-")}
    assert {point for point in points if not unicodedata.name(chr(point), "")} <= UNICODE_15.keys() <= points
    for point, name in UNICODE_15.items():
        assert unicodedata.name(chr(point), name) == name
    words = {word for key in keys for word in name_words(key)}
    assert len(words) == 1688 and not [word for word in words if word.startswith("1f")]  # as docs/data.md says
    assert max(len(name_words(key)) for key in keys) == 11 < TOKENS
    assert max(abs(float(word_vector(a) @ word_vector(b))) for a, b in itertools.pairwise(sorted(words))) < 0.9


def test_a_longer_name_is_truncated() -> None:
    assert len(name_words("-".join(["1f607"] * 5))) == 20
    assert name_caption("-".join(["1f607"] * 5)).shape == (TOKENS, WIDTH)


def test_vectors_are_unit_vectors_of_the_spelling() -> None:
    cat, cats, dog = word_vector("cat"), word_vector("cats"), word_vector("dog")
    assert cat.shape == (WIDTH,) and cat.dtype == torch.float32
    assert float(cat.norm()) == pytest.approx(1)
    # they share two of three and four trigrams; the others have independent signs: 2/√12 ± 1/√64
    assert float(cat @ cats) == pytest.approx(2 / 12**0.5, abs=0.25)
    assert abs(float(cat @ dog)) < 0.3
    assert torch.equal(name_caption("1f408"), torch.stack([cat]))


def test_vectors_are_the_same_everywhere() -> None:
    """The vector of one trigram consists of the bits of its hash."""
    assert name_captions._hash("<x>").hex() == "54589ea9d7f46431"
    bits = torch.tensor([int(bit) for bit in f"{int('54589ea9d7f46431', 16):064b}"])
    assert torch.equal(word_vector("x"), (bits * 2 - 1) / 8)


def test_emoji_with_captions() -> None:
    plain, captioned = Emoji3D("val", resolution=32), Emoji3D("val", resolution=32, captions=True)
    assert captioned.contract == Emoji3D.describe(resolution=32, captions=True, classes=None)
    assert (captioned.contract.text_tokens, captioned.contract.text_width) == (TOKENS, WIDTH)
    assert (plain.contract.text_tokens, plain.contract.text_width, plain[0].text) == (0, 0, None)
    for i in (0, 5, 326):
        assert torch.equal(plain[i].pixels, captioned[i].pixels) and plain[i][1:3] == captioned[i][1:3]
        assert torch.equal(captioned[i].text, name_caption(captioned[i].key))  # type: ignore[arg-type]
    batch = next(batches(captioned, 8, seed=0))
    assert batch["text"] is not None and batch["text"].tokens.shape == (8, TOKENS, WIDTH)
    for key, tokens, mask in zip(batch["key"], *batch["text"], strict=True):
        assert mask.tolist() == [i < len(name_words(key)) for i in range(TOKENS)]
        assert torch.equal(tokens[mask], name_caption(key)) and not tokens[~mask].any()
