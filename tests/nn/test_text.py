"""What a text does in a network, and what it must not: closed forms of cross-attention, padding, dropout, the start."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ulzoo.media.captions import Text
from ulzoo.nn import DenoiserInputs, HierarchicalViT, UViT, ViT
from ulzoo.nn.conditioning import NO_CONDITIONS, NetworkConditions, TextTokens
from ulzoo.nn.transformer import CrossAttention

Size = tuple[int, ...]
Make = Callable[..., nn.Module]
Perturb = Callable[[nn.Module], nn.Module]

WITH_TEXT = {"text_tokens": 5, "text_width": 7}


def make_text(*lengths: int) -> Text:
    """One text for each length, padded to 5 tokens of width 7; the padding is not zero."""
    tokens = torch.randn(len(lengths), 5, 7, generator=torch.Generator().manual_seed(3))
    return Text(tokens, torch.arange(5) < torch.tensor(lengths)[:, None])


def make_inputs(size: Size, n: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(2)), torch.linspace(-4, 4, n)


# --- cross-attention -------------------------------------------------------------------------------------------------


@pytest.fixture
def attention(perturb: Perturb) -> CrossAttention:
    torch.manual_seed(0)
    cross_attention = CrossAttention(16, 7, 2, 0.0)
    perturb(cross_attention)
    return cross_attention


def answer(attention: CrossAttention, token: Tensor) -> Tensor:
    """What a token says, with nothing to compare it to: its value, projected."""
    return attention.proj(attention.kv(token)[..., 16:])


def test_it_starts_as_nothing() -> None:
    assert not CrossAttention(16, 7, 2, 0.0)(torch.randn(3, 4, 16), make_text(5, 2, 1)).any()


def test_of_one_token_everybody_hears_its_value(attention: CrossAttention) -> None:
    text = make_text(1, 1)
    out = attention(torch.randn(2, 4, 16), text)
    torch.testing.assert_close(out, answer(attention, text.tokens[:, :1]).expand(2, 4, 16))


def test_of_equal_keys_everybody_hears_the_mean(attention: CrossAttention) -> None:
    nn.init.zeros_(attention.kv.weight.data[:16])
    text = make_text(3, 5)
    expected = [answer(attention, text.tokens[i, :n]).mean(0) for i, n in enumerate((3, 5))]
    torch.testing.assert_close(attention(torch.randn(2, 4, 16), text), torch.stack(expected)[:, None].expand(2, 4, 16))


def test_softmax_by_hand(attention: CrossAttention) -> None:
    """One head's logits are √head_width times the temperature times the keys' correlation with the query."""
    nn.init.eye_(attention.proj.weight)
    nn.init.zeros_(attention.proj.bias)
    x, text = torch.randn(1, 1, 16), make_text(4)
    out = attention(x, text)[0, 0]
    query, pairs = attention.q(x)[0, 0], attention.kv(text.tokens[0, :4])
    for head in (0, 1):
        channels = slice(8 * head, 8 * head + 8)
        keys = pairs[:, :16][:, channels]
        correlation = torch.stack([torch.corrcoef(torch.stack([query[channels], key]))[0, 1] for key in keys])
        logits = 8**0.5 * attention.temperature[head, 0, 0] * correlation
        expected = torch.softmax(logits, 0) @ pairs[:, 16:][:, channels]
        torch.testing.assert_close(out[channels], expected, rtol=1e-4, atol=1e-4)


def test_repeated_and_reordered_tokens_change_nothing(attention: CrossAttention) -> None:
    """A set of tokens: their order is known to the text encoder only."""
    x, text = torch.randn(2, 4, 16), make_text(5, 3)
    out = attention(x, text)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(attention(x, Text(*(t[:, order] for t in text))), out)
    torch.testing.assert_close(attention(x, Text(*(torch.cat([t, t], dim=1) for t in text))), out)


def test_the_fused_kernel_masks_as_the_one_written_out(attention: CrossAttention) -> None:
    x, text = torch.randn(3, 300, 16), make_text(5, 1, 3)  # 300 tokens take the fused kernel, 100 do not
    torch.testing.assert_close(attention(x, text)[:, :100], attention(x[:, :100], text), rtol=1e-4, atol=1e-5)


def test_qk_norm_bounds_the_logits(attention: CrossAttention) -> None:
    nn.init.ones_(attention.temperature)
    with patch("ulzoo.nn.transformer.attend", side_effect=lambda q, k, v, mask: q) as attended:
        attention(1e3 * torch.randn(2, 6, 16), Text(1e3 * torch.randn(2, 5, 7), torch.ones(2, 5, dtype=torch.bool)))
    q, k, _, _ = attended.call_args.args
    assert (q @ k.transpose(-1, -2)).abs().max() / 8**0.5 <= 8**0.5 * 1.001


# --- what is masked, dropped or absent --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 300], ids=["written out", "fused"])
def test_padding_is_without_any_influence(perturb: Perturb, n: int) -> None:
    """Its gradient is exactly zero, and what it holds, were it infinite, leaves every bit as it is."""
    torch.manual_seed(0)
    read, attention = TextTokens(DenoiserInputs((2, 2), 3, **WITH_TEXT), 16), CrossAttention(16, 16, 2, 0.0)
    perturb(attention)
    x, text = torch.randn(3, n, 16), make_text(5, 0, 2)
    text.tokens.requires_grad_(True)
    out = attention(x, read(text, 3))
    out.square().sum().backward()
    assert text.tokens.grad is not None
    assert torch.equal(text.tokens.grad.abs().amax(2) > 0, text.mask)
    for other in (0.0, 1e30, float("inf"), float("nan")):
        changed = Text(torch.where(text.mask[..., None], text.tokens, other), text.mask)
        assert torch.equal(attention(x, read(changed, 3)), out)


def test_padding_adds_nothing_to_a_networks_gradient(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, text = perturb(make_backbone(size, **WITH_TEXT)), make_text(5, 0, 2)
    text.tokens.requires_grad_(True)
    network(*make_inputs(size), NetworkConditions(text=text)).square().sum().backward()
    assert text.tokens.grad is not None
    assert torch.equal(text.tokens.grad.abs().amax(2) > 0, text.mask)


def test_longer_padding_changes_nothing(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, text = perturb(make_backbone(size, **WITH_TEXT)).eval(), make_text(3, 2, 0)
    cut = Text(*(t[:, :3] for t in text))
    x_t, logsnr = make_inputs(size)
    torch.testing.assert_close(
        network(x_t, logsnr, NetworkConditions(text=cut)),
        network(x_t, logsnr, NetworkConditions(text=text)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_no_text_is_an_empty_one(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, (x_t, logsnr) = perturb(make_backbone(size, **WITH_TEXT)), make_inputs(size)
    without = network.eval()(x_t, logsnr)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(network(x_t, logsnr, NetworkConditions(text=make_text(0, 0, 0))), without, **close)
    mixed = network.eval()(x_t, logsnr, NetworkConditions(text=make_text(0, 4, 0)))
    torch.testing.assert_close(mixed[[0, 2]], without[[0, 2]], **close)
    assert not torch.allclose(mixed[1], without[1], rtol=1e-2)


# --- networks --------------------------------------------------------------------------------------------------------


def test_every_block_of_every_level_reads_and_only_the_middle_of_a_u_vit() -> None:
    inputs = DenoiserInputs((8, 4), 3, **WITH_TEXT)
    for network, reading in (
        (ViT(inputs, width=24, depth=3, heads=2), [24] * 3),
        (HierarchicalViT(inputs, channels=(12, 24), blocks=(4, 1), head_width=12), [12] * 2 + [24] + [12] * 2),
        (UViT(inputs, patch=1, channels=(8, 12), blocks=(1, 2), width=24, depth=2, heads=2), [24] * 2),
    ):
        widths = [m.proj.out_features for m in network.modules() if isinstance(m, CrossAttention)]
        assert widths == reading


def test_a_fresh_network_is_the_one_without_text(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    """With equal weights elsewhere, all outputs are equal: the branches start at zero. Nor has the network without text
    any parameter that the other lacks, so what was trained without can go on with it."""
    plain, reading = perturb(make_backbone(size)), make_backbone(size, **WITH_TEXT)
    missing, unexpected = reading.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all("cross_attention" in name or name.startswith("text.") for name in missing)
    x_t, logsnr = make_inputs(size)
    assert torch.equal(reading(x_t, logsnr, NetworkConditions(text=make_text(5, 2, 0))), plain(x_t, logsnr))


def test_gradient_reaches_every_parameter(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network = perturb(make_backbone(size, latent=True, latent_logsnr=True, **WITH_TEXT))
    x_t, logsnr = make_inputs(size)
    text, latent = make_text(5, 2, 0), torch.randn(3, 5, *(s // 4 for s in size))
    network(x_t, logsnr, NetworkConditions(latent, -logsnr, text=text)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_every_token_counts(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, (x_t, logsnr) = perturb(make_backbone(size, **WITH_TEXT)).eval(), make_inputs(size)
    text = make_text(5, 5, 5)
    out = network(x_t, logsnr, NetworkConditions(text=text))
    for token in range(5):
        other = text.tokens.clone()
        other[:, token] += torch.linspace(-1, 1, 7)
        assert not torch.allclose(
            network(x_t, logsnr, NetworkConditions(text=Text(other, text.mask))), out, rtol=1e-4
        ), token


def test_keys_and_values_are_no_function_of_x_t(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    """So they may be made once for all the steps of a sampler."""
    network, (x_t, logsnr) = perturb(make_backbone(size, **WITH_TEXT)).eval(), make_inputs(size)
    seen: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, CrossAttention):
            module.kv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    text = make_text(5, 2, 1)
    network(x_t, logsnr, NetworkConditions(text=text))
    network(-2 * x_t, logsnr + 3, NetworkConditions(text=text))
    half = len(seen) // 2
    assert half > 0 and all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_examples_are_independent(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, (x_t, logsnr) = perturb(make_backbone(size, **WITH_TEXT)).eval(), make_inputs(size, 4)
    text, order = make_text(5, 2, 0, 3), torch.tensor([3, 1, 0])
    together = network(x_t, logsnr, NetworkConditions(text=text))
    alone = network(x_t[order], logsnr[order], NetworkConditions(text=Text(*(t[order] for t in text))))
    torch.testing.assert_close(alone, together[order], rtol=1e-4, atol=1e-5)


def test_all_tokens_of_a_video_read_where_attention_is_factorised(perturb: Perturb) -> None:
    torch.manual_seed(0)
    inputs = DenoiserInputs((4, 4, 4), 3, **WITH_TEXT)
    network = perturb(ViT(inputs, patch=2, width=24, depth=2, heads=2, attention="factorised", causal=True)).eval()
    x_t, logsnr = torch.randn(2, 3, 4, 4, 4), torch.zeros(2)
    change = network(x_t, logsnr, NetworkConditions(text=make_text(3, 0))) - network(x_t, logsnr)
    assert change[0].abs().amax(0).min() > 0 and torch.allclose(change[1], torch.zeros(()), atol=1e-5)


@pytest.mark.parametrize("backbone", ["vit", "uvit"])
def test_the_flops_of_a_caption_in_closed_form(backbone: str) -> None:
    """Its projection; in each of 3 blocks queries and output, keys and values, and attention's two products."""

    def flops(inputs: DenoiserInputs, conditions: NetworkConditions = NO_CONDITIONS) -> int:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            network: nn.Module
            if backbone == "vit":
                network = ViT(inputs, width=24, depth=3, heads=2)
            else:
                network = UViT(inputs, patch=1, channels=(8,), blocks=(1,), width=24, depth=3, heads=2)
            network(torch.empty(1, 3, 8, 8), torch.empty(1), conditions)
        return counter.get_total_flops()

    n, read, w = 64 if backbone == "vit" else 16, 1 + 5, 24
    block = n * 2 * w * w + read * w * 2 * w + 2 * n * read * w
    text = Text(torch.empty(1, 5, 7, device="meta"), torch.empty(1, 5, dtype=torch.bool, device="meta"))
    added = flops(DenoiserInputs((8, 8), 3, **WITH_TEXT), NetworkConditions(text=text)) - flops(
        DenoiserInputs((8, 8), 3)
    )
    assert added == 2 * (5 * 7 * w + 3 * block)


def test_bfloat16_autocast_is_close_to_single_precision(make_backbone: Make, size: Size, perturb: Perturb) -> None:
    network, (x_t, logsnr) = perturb(make_backbone(size, **WITH_TEXT)).eval(), make_inputs(size)
    exact = network(x_t, logsnr, NetworkConditions(text=make_text(5, 2, 0)))
    with torch.autocast("cpu", torch.bfloat16):
        fast = network(x_t, logsnr, NetworkConditions(text=make_text(5, 2, 0))).float()
    assert (fast - exact).norm() < 0.05 * exact.norm()
