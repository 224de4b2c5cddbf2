"""The gated input skip around a network that is narrower than its patches."""

import torch

from ulzoo.nn import DenoiserInputs, ViT
from ulzoo.nn.conditioning import NetworkConditions


def test_the_gain_is_per_channel_and_depends_on_noise_level_and_context_frames() -> None:
    torch.manual_seed(0)
    network = ViT(
        DenoiserInputs((4, 8, 8), 3, frame_channels=4), patch=(2, 8, 8), width=8, depth=1, heads=2, carry=True
    )
    assert network.carry is not None
    x_t, frames = torch.randn(1, 3, 4, 8, 8).expand(3, -1, -1, -1, -1), torch.zeros(3, 4, 4, 8, 8)
    frames[2, -1, :2] = 1  # the mask of the third example
    logsnr = torch.tensor([-1.0, 2.0, 2.0])
    assert not network(x_t, logsnr, NetworkConditions(context_frames=frames)).any()
    with torch.no_grad():
        network.carry.gain.weight.normal_()
    gain = network(x_t, logsnr, NetworkConditions(context_frames=frames)) / x_t
    torch.testing.assert_close(gain, gain[..., :1, :1, :1].expand_as(gain), rtol=1e-3, atol=1e-4)
    levels = gain[..., 0, 0, 0]  # (3, channels)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert (levels[i] - levels[j]).abs().min() > 1e-3
