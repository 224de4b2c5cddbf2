from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ulzoo.nn.transformer import Attention, AttentionPattern, BlockOptions, Transformer, attend


@pytest.mark.parametrize("masked", [False, True])
def test_attention_written_out_is_the_fused_kernel(masked: bool) -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = (torch.arange(10) < 7).expand(10, 10) if masked else None
    fused = F.scaled_dot_product_attention(q, k, v, mask)
    with patch.object(F, "scaled_dot_product_attention", side_effect=AssertionError("written out on a CPU")):
        torch.testing.assert_close(attend(q, k, v, mask), fused, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("tokens", "dtype"), [(513, torch.bfloat16), (10, torch.float32)])
def test_many_tokens_and_fp32_take_the_fused_kernel(tokens: int, dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 1, 1, tokens, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    with patch.object(F, "scaled_dot_product_attention", return_value=v) as kernel:
        attend(q, k, v)
    kernel.assert_called_once()


def test_qk_norm_bounds_the_logits() -> None:
    """However large the features, no logit exceeds √head_width times the temperature."""
    torch.manual_seed(0)
    attention = Attention(16, 2, 0.0)
    with patch("ulzoo.nn.transformer.attend", side_effect=lambda q, k, v, mask: v) as attended:
        attention(1e3 * torch.randn(2, 6, 16), AttentionPattern((2, 3), 0, "all", causal=False))
    q, k, _, _ = attended.call_args.args
    assert (q @ k.transpose(-1, -2)).abs().max() / 8**0.5 <= 8**0.5 * 1.001


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_unconditional_and_conditional_stacks_start_as_the_identity(positions: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 6, 16)
    plain = Transformer((2, 3), 16, 2, 2, BlockOptions(positions=positions))  # type: ignore[arg-type]
    adaptive = Transformer((2, 3), 16, 2, 2, BlockOptions(positions=positions), cond_width=8)  # type: ignore[arg-type]
    for stack, out in ((plain, plain(tokens)), (adaptive, adaptive(tokens, torch.randn(2, 8)))):
        torch.testing.assert_close(out, tokens if stack.positions is None else tokens + stack.positions)


def test_without_positions_a_stack_is_equivariant_to_permutation() -> None:
    """So whatever tells positions apart comes from the positions alone."""
    torch.manual_seed(0)
    stack = Transformer((2, 3), 16, 2, 2, BlockOptions(positions="learned"), cond_width=8)
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.2)
    assert stack.positions is not None
    nn.init.zeros_(stack.positions)
    tokens, cond, order = torch.randn(2, 6, 16), torch.randn(2, 8), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(stack(tokens[:, order], cond), stack(tokens, cond)[:, order], rtol=1e-4, atol=1e-5)
