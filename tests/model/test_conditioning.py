"""Dropping conditions in training: by example, each kind independently."""

import torch
from torch import nn

from ulzoo.diffusion import ExampleNoise
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import append_mask
from ulzoo.model.denoisers import ConditionalNetwork, ConditionDropout
from ulzoo.nn.conditioning import NetworkConditions

N = 4000
LABELS = torch.ones(N, dtype=torch.long)
TEXT = Text(torch.ones(N, 3, 2), torch.tensor([[True, True, False]]).expand(N, 3))
FRAMES = append_mask(torch.ones(N, 1, 2, 1, 1), 1, 2)
CONDITIONS = NetworkConditions(labels=LABELS, text=TEXT, context_frames=FRAMES)


def drop(dropout: ConditionDropout, conditions: NetworkConditions, generator=None) -> NetworkConditions:
    return ConditionalNetwork(nn.Identity(), dropout=dropout).drop_conditions(conditions, generator)


def dropped_examples(dropout: ConditionDropout, generator=None) -> dict[str, torch.Tensor]:
    """For each condition the examples in which it is dropped; in the others it must be unchanged."""
    conditions = drop(dropout, CONDITIONS, generator)
    assert conditions.labels is not None and conditions.text is not None and conditions.context_frames is not None
    dropped = {
        "labels": conditions.labels == -1,
        "text": ~conditions.text.mask.any(1),
        "frames": conditions.context_frames.flatten(1).abs().sum(1) == 0,
    }
    assert torch.equal(conditions.labels[~dropped["labels"]], LABELS[~dropped["labels"]])
    assert torch.equal(conditions.text.mask[~dropped["text"]], TEXT.mask[~dropped["text"]])
    assert torch.equal(conditions.context_frames[~dropped["frames"]], FRAMES[~dropped["frames"]])
    return dropped


def test_each_kind_is_dropped_independently():
    before = LABELS.clone()
    dropout = ConditionDropout(labels=0.3, text=0.3, frames=0.3)
    dropped = dropped_examples(dropout, torch.Generator().manual_seed(0))
    for examples in dropped.values():
        assert 0.27 < examples.float().mean() < 0.33
    for one, other in (("labels", "text"), ("text", "frames"), ("labels", "frames")):
        assert 0.07 < (dropped[one] & dropped[other]).float().mean() < 0.11
    assert torch.equal(LABELS, before) and TEXT.mask[:, :2].all()


def test_nothing_is_dropped_by_default():
    assert not any(examples.any() for examples in dropped_examples(ConditionDropout()).values())


def test_a_part_of_a_batch_drops_what_the_batch_drops():
    def noise(first: int, last: int) -> ExampleNoise:
        return ExampleNoise(range(first, last), 1, first, N)

    batch = drop(ConditionDropout(labels=0.5), NetworkConditions(labels=LABELS), noise(0, N)).labels
    part = drop(ConditionDropout(labels=0.5), NetworkConditions(labels=LABELS[100:200]), noise(100, 200)).labels
    assert batch is not None and part is not None and torch.equal(part, batch[100:200])


def test_conditions_repeat_with_their_batch():
    repeated = CONDITIONS.repeat(2)
    assert repeated.labels is not None and repeated.text is not None and repeated.context_frames is not None
    assert torch.equal(repeated.labels, torch.cat([LABELS, LABELS]))
    assert torch.equal(repeated.text.mask, torch.cat([TEXT.mask, TEXT.mask]))
    assert torch.equal(repeated.context_frames, torch.cat([FRAMES, FRAMES]))
    assert repeated.latent is None and repeated.latent_logsnr is None
