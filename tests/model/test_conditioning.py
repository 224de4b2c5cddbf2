"""What training hides from a network: by example, each condition by a coin of its own."""

import torch
from torch import nn

from ulzoo.diffusion import ExampleNoise
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import condition, hidden
from ulzoo.model.denoisers import Conditional, Dropout

N = 4000
GIVEN = {
    "labels": torch.ones(N, dtype=torch.long),
    "text": Text(torch.ones(N, 3, 2), torch.tensor([[True, True, False]]).expand(N, 3)),
    "given": condition(torch.ones(N, 1, 2, 1, 1), 1, 2),
}


def coins(dropout: Dropout, generator=None) -> dict[str, torch.Tensor]:
    """By condition, which examples it is hidden from; in the others it must be whole."""
    found = hidden(Conditional(nn.Identity(), dropout), GIVEN, generator)
    gone = {
        "labels": found["labels"] == -1,
        "text": ~found["text"].mask.any(1),
        "given": found["given"].flatten(1).abs().sum(1) == 0,
    }
    assert torch.equal(found["labels"][~gone["labels"]], GIVEN["labels"][~gone["labels"]])
    assert torch.equal(found["text"].mask[~gone["text"]], GIVEN["text"].mask[~gone["text"]])
    assert torch.equal(found["given"][~gone["given"]], GIVEN["given"][~gone["given"]])
    return gone


def test_each_is_hidden_by_a_coin_of_its_own():
    before = GIVEN["labels"].clone()
    gone = coins(Dropout(labels=0.3, text=0.3, frames=0.3), torch.Generator().manual_seed(0))
    for coin in gone.values():
        assert 0.27 < coin.float().mean() < 0.33
    for one, other in (("labels", "text"), ("text", "given"), ("labels", "given")):
        assert 0.07 < (gone[one] & gone[other]).float().mean() < 0.11
    assert torch.equal(GIVEN["labels"], before) and GIVEN["text"].mask[:, :2].all()


def test_nothing_is_hidden_where_nothing_is_asked():
    assert not any(coin.any() for coin in coins(Dropout()).values())


def test_a_part_of_a_batch_hides_what_the_batch_hides():
    def noise(first: int, last: int) -> ExampleNoise:
        return ExampleNoise(range(first, last), 1, first, N)

    whole = hidden(Conditional(nn.Identity(), Dropout(labels=0.5)), GIVEN, noise(0, N))["labels"]
    part = {"labels": GIVEN["labels"][100:200]}
    assert torch.equal(
        hidden(Conditional(nn.Identity(), Dropout(labels=0.5)), part, noise(100, 200))["labels"], whole[100:200]
    )
