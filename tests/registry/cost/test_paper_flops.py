"""The FLOPs of the paper's networks at ImageNet-512, from its §5.1, compared with PyTorch's counter.

FLOPs are 2 × multiply-accumulates of a forward pass on one image. The paper counts linear projections and attention
only. The decoder is the only network with convolutions; it is counted with and without them.
"""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model

LATENT = 32 * 32  # positions of z_0, 16 × 16 pixels each
CHANNELS = 32  # of z_0
WIDTH = 1024  # of prior and decoder


def blocks(count: int, tokens: int, width: int) -> int:
    """Multiply-accumulates of transformer blocks: 3 + 1 + 4 + 4 projections, attention scores and weighted values."""
    return count * (tokens * 12 * width**2 + 2 * tokens**2 * width)


def conditioning(width: int, modulated: int) -> int:
    """128 features of the log-SNR through two layers, and the projections to the modulated channels."""
    return 128 * width + width**2 + width * modulated


def prior() -> int:
    embed_and_out = 2 * LATENT * CHANNELS * WIDTH
    return embed_and_out + conditioning(WIDTH, (6 + 2) * WIDTH) + blocks(8, LATENT, WIDTH)


def base() -> int:
    """Two levels, 1024 tokens of 512 channels and 256 of 1024; the 6 blocks of the outer one are two stacks."""
    embed_and_out = 2 * LATENT * CHANNELS * 512
    merge_and_split = 2 * 256 * (4 * 512) * 1024
    modulation = conditioning(1024, 2 * 6 * 512 + 6 * 1024 + 2 * 512)
    return embed_and_out + merge_and_split + modulation + blocks(6, 1024, 512) + blocks(16, 256, 1024)


def decoder_without_convolutions() -> int:
    """z_0 at two places, the 8 middle blocks, scale and shift of 2 residual blocks in each of 3 stages, down and up."""
    z_0 = LATENT * CHANNELS * (128 + WIDTH)
    stages = 2 * 2 * 2 * (128 + 256 + 512)
    return z_0 + conditioning(WIDTH, 6 * WIDTH + stages) + blocks(8, LATENT, WIDTH)


def decoder_convolutions() -> int:
    """On 256², 128² and 64² positions: two of 3×3 per residual block, and per stage one of 2×2 down and 1×1 up."""
    stages = [(256**2, 128, 256), (128**2, 256, 512), (64**2, 512, WIDTH)]  # positions, channels, the next one's
    first_and_last = 2 * 256**2 * 9 * 12 * 128
    residual = sum(2 * 2 * 2 * positions * 9 * c**2 for positions, c, _ in stages)
    down = sum(positions // 4 * 4 * c * d for positions, c, d in stages)
    up = sum(positions // 4 * c * d for positions, c, d in stages)
    return first_and_last + residual + down + up


@pytest.fixture(scope="module")
def counted() -> Callable[[str], dict[str, int]]:
    """`counted("prior")`: FLOPs by operator, on `meta`."""
    model = compile_model(load_spec("imagenet512_medium"), "meta")
    with torch.device("meta"):
        x, z, logsnr = torch.empty(1, 3, 512, 512), torch.empty(1, CHANNELS, 32, 32), torch.empty(1)

    def count(part: str) -> dict[str, int]:
        network = getattr(model, part).network
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x, logsnr, NetworkConditions(latent=z)) if part == "decoder" else network(z, logsnr)
        return {str(operator): flops for operator, flops in counter.get_flop_counts()["Global"].items()}

    return count


@pytest.mark.parametrize(("part", "expected", "gflops"), [("prior", prior, 240.7), ("base", base, 161.2)])
def test_transformers(counted, part: str, expected: Callable[[], int], gflops: float):
    flops = sum(counted(part).values())
    assert 2 * expected() == pytest.approx(flops, rel=0.01)
    assert flops / 1e9 == pytest.approx(gflops, rel=0.001)


def test_decoder(counted):
    flops = counted("decoder")
    total = sum(flops.values())
    convolutions = sum(count for operator, count in flops.items() if "convolution" in operator)
    assert 2 * decoder_convolutions() == pytest.approx(convolutions, rel=0.01)
    assert 2 * decoder_without_convolutions() == pytest.approx(total - convolutions, rel=0.01)
    assert (total / 1e9, (total - convolutions) / 1e9) == pytest.approx((724.2, 240.6), rel=0.001)
