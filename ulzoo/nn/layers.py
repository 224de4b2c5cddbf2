"""Layers of transformer blocks, as timm's, whose import takes as long as torch's."""

from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis, of `width` channels, without learned scale and shift."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6, elementwise_affine=False)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, (…, width) -> (…, width)."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))
