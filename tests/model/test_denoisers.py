"""One diffusion model with its conditions."""

import torch
from torch import nn

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, SigmoidWeighting
from ulzoo.media.captions import Text
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.nn import DenoiserInputs
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.nn.vit import ViT


def test_one_pass_over_both_is_one_with_and_one_without_labels_and_text() -> None:
    torch.manual_seed(0)
    inputs = DenoiserInputs((4, 4), 3, (4, 4), 2, num_classes=5, frame_channels=4, text_tokens=6, text_width=8)
    network = ViT(inputs, width=32, depth=2, heads=2)
    for parameter in network.parameters():  # outputs and cross-attention start at zero
        nn.init.normal_(parameter, std=0.1)
    diffusion = GaussianDiffusion(CosineSchedule())
    model = DiffusionModel(network, diffusion, SigmoidWeighting(), takes_text=True).eval()
    x_t, logsnr = torch.randn(3, 3, 4, 4), torch.tensor([-2.0, 0.0, 3.0])
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [0] * 6, [1] * 6], dtype=torch.bool)
    conditions = NetworkConditions(
        torch.randn(3, 2, 4, 4),
        labels=torch.tensor([0, 4, -1]),
        text=Text(torch.randn(3, 6, 8), mask),
        context_frames=torch.randn(3, 4, 4, 4),
    )
    with torch.no_grad():
        conditional, unconditional = model.cfg_denoiser(conditions)(x_t, logsnr)
        torch.testing.assert_close(conditional, network(x_t, logsnr, conditions))
        torch.testing.assert_close(unconditional, network(x_t, logsnr, conditions._replace(labels=None, text=None)))
        assert not torch.allclose(conditional, unconditional, atol=1e-3)
