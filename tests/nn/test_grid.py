import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ulzoo.nn.grid import divide, patchify, rotary_angles, to_grid, to_tokens, unpatchify, upsample
from ulzoo.nn.transformer import AttentionPattern, rotate

GRIDS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3)  # (patches, patch) per axis


@given(grid=GRIDS, batch=st.integers(1, 3), channels=st.integers(1, 4))
def test_patches_round_trip(grid: list[tuple[int, int]], batch: int, channels: int) -> None:
    patch = [p for _, p in grid]
    x = torch.randn(batch, channels, *(n * p for n, p in grid))
    patches = patchify(x, patch)
    assert patches.shape == (batch, channels * torch.Size(patch).numel(), *(n for n, _ in grid))
    assert torch.equal(unpatchify(patches, patch), x)
    first = x[(slice(None), slice(None), *(slice(p) for p in patch))]  # the patch in the corner
    assert torch.equal(patches.flatten(2)[..., 0], first.flatten(1))


@given(h=st.integers(1, 4), w=st.integers(1, 4), patch=st.integers(1, 4), channels=st.integers(1, 3))
def test_patchify_is_pixel_unshuffle(h: int, w: int, patch: int, channels: int) -> None:
    x = torch.randn(2, channels, h * patch, w * patch)
    assert torch.equal(patchify(x, (patch, patch)), F.pixel_unshuffle(x, patch))


@given(grid=GRIDS)
def test_tokens_round_trip_in_row_order(grid: list[tuple[int, int]]) -> None:
    size = [n for n, _ in grid]
    x = torch.randn(2, 3, *size)
    tokens = to_tokens(x)
    assert tokens.shape == (2, torch.Size(size).numel(), 3)
    assert torch.equal(tokens[:, 0], x.flatten(2)[..., 0]) and torch.equal(tokens[:, -1], x.flatten(2)[..., -1])
    assert torch.equal(to_grid(tokens, size), x)


def test_enlarge_is_nearest_neighbour() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(upsample(x, (2, 3)), F.interpolate(x, scale_factor=(2, 3), mode="nearest"))
    assert torch.equal(upsample(x, (1, 1)), x)


def test_divide() -> None:
    assert divide((8, 6), (2, 3), "patch") == (4, 2)
    with pytest.raises(ValueError, match=r"patch \[4, 4\] does not divide the grid \[8, 6\]"):
        divide((8, 6), (4, 4), "patch")
    with pytest.raises(ValueError, match=r"patch \[2\] has 1 dimensions, the grid \[8, 6\] has 2"):
        divide((8, 6), (2,), "patch")


# --- rotary positions ------------------------------------------------------------------------------------------------


def rotated(vector: Tensor, size: tuple[int, ...]) -> Tensor:
    """One vector as it looks at every position, (*size, head_width)."""
    stack = AttentionPattern(size, len(vector), "all", causal=False)
    assert stack.cos is not None and stack.sin is not None
    return rotate(vector.expand(len(stack.cos), -1), stack.cos, stack.sin).reshape(*size, -1)


@pytest.mark.parametrize(("size", "head_width"), [((7,), 8), ((5, 6), 16), ((5, 6), 10), ((3, 4, 5), 16)])
def test_rotary_attention_sees_differences_of_position_only(size: tuple[int, ...], head_width: int) -> None:
    q, k = torch.randn(2, head_width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at_q, at_k = rotated(q, size), rotated(k, size)
    torch.testing.assert_close(at_q.norm(dim=-1), q.norm().expand(size), rtol=1e-5, atol=1e-6)
    corner, step = (0,) * len(size), (1,) * len(size)
    further = tuple(2 * s for s in step)
    torch.testing.assert_close(at_q[step] @ at_k[further], at_q[corner] @ at_k[step], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(at_q[further] @ at_k[step], at_q[step] @ at_k[corner], rtol=1e-5, atol=1e-6)
    assert (at_q[corner] @ at_k[step] - at_q[step] @ at_k[corner]).abs() > 1e-3  # and their sign


def test_rotary_tells_every_axis_apart() -> None:
    at = rotated(torch.ones(16, dtype=torch.float64), (3, 3, 3))
    one_step = [at[1, 0, 0], at[0, 1, 0], at[0, 0, 1], at[0, 0, 0]]
    for i, a in enumerate(one_step):
        for b in one_step[i + 1 :]:
            assert (a - b).norm() > 0.1


@pytest.mark.parametrize(("size", "head_width"), [((4, 4), 2), ((4, 4, 4), 4), ((4, 4), 7)])
def test_rotary_refuses_heads_too_narrow_for_their_axes(size: tuple[int, ...], head_width: int) -> None:
    with pytest.raises(ValueError, match=f"need an even head width of at least {2 * len(size)}, got {head_width}"):
        rotary_angles(size, head_width)


@pytest.mark.parametrize(("size", "patch"), [((8, 8), (2, 2)), ((8, 8), (1, 1)), ((4, 8, 8), (1, 2, 2))])
def test_patches_lie_channels_last_in_memory(size, patch):
    layout = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    assert patchify(torch.randn(2, 3, *size), patch).is_contiguous(memory_format=layout)
