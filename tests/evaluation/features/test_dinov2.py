"""DINOv2 features of a small network with random weights, against the published forward pass written out."""

import pytest
import torch
import torch.nn.functional as F

from ulzoo.evaluation.features import dinov2 as module
from ulzoo.evaluation.features.dinov2 import DINOV2, dinov2
from ulzoo.files.atomic import sha256

D, HEADS, GRID = 8, 2, 37  # the published weights have 37×37 patches


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """Tensors with the names of the published file, and the file."""
    monkeypatch.setattr(module, "NETWORK", {"embed_dim": D, "depth": 1, "num_heads": HEADS})
    shapes = {"cls_token": (1, 1, D), "pos_embed": (1, 1 + GRID**2, D), "mask_token": (1, D)}
    shapes |= {"patch_embed.proj.weight": (D, 3, 14, 14), "patch_embed.proj.bias": (D,)}
    for name, (rows, columns) in {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (4 * D, D)}.items():
        shapes |= {f"blocks.0.{name}.weight": (rows, columns), f"blocks.0.{name}.bias": (rows,)}
    shapes |= {"blocks.0.mlp.fc2.weight": (D, 4 * D), "blocks.0.mlp.fc2.bias": (D,)}
    for name in ("blocks.0.norm1", "blocks.0.norm2", "norm"):
        shapes |= {f"{name}.weight": (D,), f"{name}.bias": (D,)}
    shapes |= {"blocks.0.ls1.gamma": (D,), "blocks.0.ls2.gamma": (D,)}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save(tensors, tmp_path / "w.pth")
    return tensors, tmp_path / "w.pth"


def published(w, images):
    """Facebook's forward pass at 224×224 after EDM2's resize."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True) / 255
    x = (x - mean[:, None, None]) / std[:, None, None]
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14).flatten(2).mT  # (B, 256, D)
    x = torch.cat([w["cls_token"].expand(len(x), 1, D), x], 1)
    positions = w["pos_embed"][:, 1:].reshape(1, GRID, GRID, D).permute(0, 3, 1, 2)
    positions = F.interpolate(positions, scale_factor=16.1 / GRID, mode="bicubic").flatten(2).mT
    x = x + torch.cat([w["pos_embed"][:, :1], positions], 1)

    def linear(name, x):
        return x @ w[f"blocks.0.{name}.weight"].T + w[f"blocks.0.{name}.bias"]

    def norm(name, x):
        return F.layer_norm(x, (D,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    qkv = linear("attn.qkv", norm("blocks.0.norm1", x)).reshape(len(x), -1, 3, HEADS, D // HEADS)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mixed = (q @ k.mT / (D // HEADS) ** 0.5).softmax(-1) @ v
    x = x + w["blocks.0.ls1.gamma"] * linear("attn.proj", mixed.transpose(1, 2).flatten(2))
    x = x + w["blocks.0.ls2.gamma"] * linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("blocks.0.norm2", x))))
    return norm("norm", x)[:, 0]


def test_it_is_the_published_network(weights):
    tensors, path = weights
    before = torch.get_rng_state()
    features = dinov2(path, sha256(path))
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randint(0, 256, (3, 3, 50, 40), generator=torch.Generator().manual_seed(1))
    images = (images * torch.tensor([0.1, 0.5, 1]).reshape(3, 1, 1, 1)).byte()
    vectors, logits = features(images)
    assert logits is None and vectors.shape == (3, D) and vectors.std(0).min() > 1e-3
    assert torch.allclose(vectors, published(tensors, images), atol=1e-5)
    assert (features.name, features.short, features.dimension) == ("fd_dinov2", "_dinov2", D)
    assert features.protocol["network_sha256"] == sha256(path)


def test_other_weights(weights, tmp_path):
    _, path = weights
    with pytest.raises(ValueError, match=f"not {DINOV2.sha256}; it was not loaded"):
        dinov2(path)
    torch.save({"pos_embed": torch.zeros(1, 10, D)}, path)
    with pytest.raises(ValueError, match=r"w\.pth: not DINOv2's ViT-L/14") as error:
        dinov2(path, sha256(path))
    assert "\n" not in str(error.value)


def test_the_network_is_vit_large(monkeypatch):
    """By its number of weights: 304,368,640 as published, except 1,113 patches that 224 pixels do not have."""
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        network = VisionTransformer(img_size=224, patch_size=14, init_values=1.0, num_classes=0, **module.NETWORK)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count + (GRID**2 - 16**2) * 1024 + 1024 == 304_368_640  # and the mask token
