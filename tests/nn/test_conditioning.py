import pytest
import torch

from ulzoo.nn import DenoiserInputs
from ulzoo.nn.conditioning import LatentProjection, LogsnrEmbedding, NetworkConditions, VectorConditioning

Size = tuple[int, ...]


@pytest.mark.parametrize(
    ("latent_size", "size"),
    [((4, 4), (8, 12)), ((4, 4), (4, 4)), ((8, 4), (4, 2)), ((2, 8), (4, 4)), ((2, 4, 4), (4, 4, 2))],
    ids=["finer", "equal", "coarser", "mixed", "3d"],
)
def test_latent_meets_the_features_grid(latent_size: Size, size: Size) -> None:
    torch.manual_seed(0)
    project = LatentProjection(DenoiserInputs(size, 3, latent_size, 5), size, 7)
    latent = torch.randn(2, 5, *latent_size)
    assert project(latent).shape == (2, 7, *size)


@pytest.mark.parametrize(("latent_size", "size"), [((4, 4), (8, 8)), ((4, 4), (4, 4)), ((8, 8), (4, 4))])
def test_latent_stays_in_its_place(latent_size: Size, size: Size) -> None:
    """A change in one corner of z_0 changes that corner of the features, linearly, and nothing else."""
    torch.manual_seed(0)
    project = LatentProjection(DenoiserInputs(size, 3, latent_size, 5), size, 7)
    latent, other = torch.zeros(1, 5, *latent_size), torch.zeros(1, 5, *latent_size)
    other[..., -1, -1] = 1.0
    changed = (project(other) - project(latent)).abs().amax((0, 1)) > 1e-6
    corner = max(size[0] // latent_size[0], 1)
    assert changed[-corner:, -corner:].all() and changed.sum() == corner**2
    torch.testing.assert_close(project(3 * other) - project(latent), 3 * (project(other) - project(latent)))


def test_latent_that_does_not_nest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the latent \[3, 4\] and of the features \[8, 8\] do not nest"):
        LatentProjection(DenoiserInputs((8, 8), 3, (3, 4), 5), (8, 8), 7)


def test_noise_levels_are_told_apart_everywhere() -> None:
    torch.manual_seed(0)
    embed = LogsnrEmbedding(32)
    logsnr = torch.arange(-20.0, 20.0, 0.25)
    out = embed(logsnr)
    distance = torch.cdist(out, out) + torch.eye(len(logsnr))
    assert out.shape == (160, 32) and distance.min() > 0.01


def test_noise_level_keeps_its_precision_under_autocast() -> None:
    """bfloat16 has no number between 5 and 5.03: the features must be made in single precision."""
    torch.manual_seed(0)
    embed = LogsnrEmbedding(32)
    logsnr = torch.tensor([-9.99, 4.99, 5.01])
    with torch.autocast("cpu", torch.bfloat16):
        fast = embed(logsnr).float()
    torch.testing.assert_close(fast, embed(logsnr), rtol=0.05, atol=0.02)
    assert torch.equal(embed(logsnr.bfloat16()), embed(logsnr.bfloat16().float()))


def test_both_noise_levels_count_and_differ() -> None:
    """The decoder's own and its latent's (paper, Appendix B): a sum of two different embeddings."""
    torch.manual_seed(0)
    cond = VectorConditioning(DenoiserInputs((4, 4), 1, (2, 2), 3, latent_logsnr=True), 16)
    low, high = torch.tensor([-2.0]), torch.tensor([4.0])
    levels = ((low, low), (low, high), (high, low), (high, high))
    vectors = [cond(a, NetworkConditions(latent_logsnr=b)) for a, b in levels]
    for i, one in enumerate(vectors):
        for other in vectors[i + 1 :]:
            assert (one - other).abs().max() > 0.01
    assert cond.context_logsnr is not None
    expected = torch.nn.functional.silu(cond.logsnr(low) + cond.context_logsnr(high))
    assert torch.equal(vectors[1], expected)


def test_an_absent_condition_has_no_parameters() -> None:
    cond = VectorConditioning(DenoiserInputs((4, 4), 1, (2, 2), 3), 8)
    assert {name.partition(".")[0] for name, _ in cond.named_parameters()} == {"logsnr"}
