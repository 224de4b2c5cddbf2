"""Captions in batches: tokens of each example, padded and masked, in the order of the stream."""

from itertools import islice
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulzoo.data import Batch, DataContract, Source, TensorSource, batches, in_order
from ulzoo.data.source import Sample
from ulzoo.media.captions import pad

LENGTHS = (3, 0, 5, 1, 7, 4, 2, 5)
TOKENS, WIDTH = 5, 2


def caption(i: int) -> torch.Tensor:
    """`LENGTHS[i]` tokens, the k-th being (i + 1, k + 1)."""
    return torch.tensor([[i + 1, k + 1] for k in range(LENGTHS[i])], dtype=torch.float16).reshape(-1, WIDTH)


def make_source(contract_tokens: int = TOKENS) -> TensorSource:
    n = len(LENGTHS)
    pixels = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous()
    contract = DataContract(1, 2, 0, text_tokens=contract_tokens, text_width=WIDTH if contract_tokens else 0)
    captions = [caption(i) for i in range(n)] if contract_tokens else None
    return TensorSource(
        pixels, labels=[-1] * n, keys=[str(i) for i in range(n)], contract=contract, hflip=True, captions=captions
    )


def captions(stream: list[Batch]) -> list[tuple[str, list[list[float]], list[bool]]]:
    """(key, tokens, mask) of each example."""
    return [
        (key, tokens.tolist(), mask.tolist())
        for batch in stream
        if batch["text"] is not None
        for key, tokens, mask in zip(batch["key"], *batch["text"], strict=True)
    ]


def take(n: int, batch_size: int, **options: int) -> list[tuple[str, list[list[float]], list[bool]]]:
    return captions(list(islice(batches(make_source(), batch_size, **{"seed": 0, **options}), n)))


def expected(key: str) -> tuple[str, list[list[float]], list[bool]]:
    length = min(LENGTHS[int(key)], TOKENS)
    tokens = [[int(key) + 1.0, k + 1.0] if k < length else [0.0, 0.0] for k in range(TOKENS)]
    return key, tokens, [k < length for k in range(TOKENS)]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_example_has_its_own_caption(workers: int) -> None:
    stream = list(islice(batches(make_source(), 3, seed=0, workers=workers), 8))
    assert captions(stream) == [expected(key) for batch in stream for key in batch["key"]]
    assert {key for batch in stream for key in batch["key"]} == {str(i) for i in range(len(LENGTHS))}
    for batch in stream:
        assert batch["text"] is not None
        assert batch["text"].tokens.shape == (3, TOKENS, WIDTH) and batch["text"].tokens.dtype == torch.float32
        assert batch["text"].mask.shape == (3, TOKENS) and batch["text"].mask.dtype == torch.bool


def test_in_order() -> None:
    stream = list(in_order(make_source(), 3))
    assert captions(stream) == [expected(str(i)) for i in range(len(LENGTHS))]
    assert [len(batch["key"]) for batch in stream] == [3, 3, 2]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3, len(LENGTHS) - 1, 10 * len(LENGTHS) + 5])
def test_resuming_is_the_tail(start: int, workers: int) -> None:
    stream = take(start + 9, batch_size=1)
    assert take(3, batch_size=3, start=start, workers=workers) == stream[start:]


def test_no_text_if_the_contract_has_none() -> None:
    assert next(batches(make_source(0), 3, seed=0))["text"] is None
    assert next(in_order(make_source(0), 3))["text"] is None


class TextSource(Source):
    """Its contract has captions of width 2; its one sample has the given text."""

    hflip = False
    contract = DataContract(1, 2, 0, text_tokens=TOKENS, text_width=WIDTH)

    def __init__(self, text: torch.Tensor | None) -> None:
        self.text = text

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.zeros(1, 2, 2, dtype=torch.uint8), -1, "key", self.text)


@pytest.mark.parametrize("text", [None, torch.zeros(3, WIDTH + 1), torch.zeros(WIDTH)])
def test_a_source_that_violates_its_contract_is_detected(text: torch.Tensor | None) -> None:
    with pytest.raises(AssertionError, match="key"):
        next(in_order(TextSource(text), 1))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 8), st.integers(1, 5), st.randoms())
def test_pad_truncates_and_masks(lengths: list[int], length: int, width: int, random: Random) -> None:
    """The masked tokens are the first ones of the caption, the rest is zero; examples are independent of each other."""
    given_tokens = [torch.randn(n, width) for n in lengths]
    tokens, mask = pad(given_tokens, length)
    assert tokens.shape == (len(lengths), length, width) and mask.shape == (len(lengths), length)
    for i, caption_tokens in enumerate(given_tokens):
        kept = min(len(caption_tokens), length)
        assert mask[i].tolist() == [True] * kept + [False] * (length - kept)
        assert torch.equal(tokens[i][mask[i]], caption_tokens[:kept]) and not tokens[i][~mask[i]].any()
        assert torch.equal(pad([caption_tokens], length).tokens[0], tokens[i])
    order = list(range(len(lengths)))
    random.shuffle(order)
    shuffled = pad([given_tokens[i] for i in order], length)
    assert torch.equal(shuffled.tokens, tokens[order]) and torch.equal(shuffled.mask, mask[order])
