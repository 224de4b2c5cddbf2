"""CLIP: the published networks' arithmetic, resizing and captions, and weights that are not read."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from ulzoo.evaluation.features import clip as clip_features
from ulzoo.evaluation.features.clip import CLIPS, ClipNetwork, load_clip

CAPTIONS = ("smiling face", "Dog; a  House!", "red heart", "flag de")


@pytest.fixture(scope="module")
def clip(clip_weights):
    return ClipNetwork("vit_l14", *clip_weights)


def pictures(n: int = 4, side: int = 32) -> torch.Tensor:
    return torch.arange(n * 3 * side**2).reshape(n, 3, side, side).mul(7919).remainder(256).byte()


def test_it_is_the_network_of_transformers(clip):
    """The values are those of CLIPModel of transformers 5.24 with these weights and tokens."""
    cosines = clip(pictures(), CAPTIONS)
    torch.testing.assert_close(cosines, torch.tensor([0.3607, 0.5393, 0.3100, 0.4013]), atol=1e-4, rtol=0)
    assert clip.protocol["network"] == "OpenAI's CLIP ViT-L/14" and "32×32" in clip.protocol["preprocessing"]


def test_images_are_resized_as_by_pillow(clip, monkeypatch):
    x = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(x, (80, 80), mode="bilinear").mul(255).byte()  # smooth
    inputs = []
    encode = clip.network.encode_image
    monkeypatch.setattr(clip.network, "encode_image", lambda x, **options: inputs.append(x) or encode(x, **options))
    clip(large, ["a"])
    clip(pil_to_tensor(to_pil_image(large[0]).resize((32, 32), Image.Resampling.BICUBIC))[None], ["a"])
    assert (inputs[0] - inputs[1]).abs().max() < 1.1 / 255 / min(clip_features.STD)  # one level of uint8


def test_grey_images_and_long_captions(clip):
    grey = pictures()[:2, :1]
    assert torch.equal(clip(grey, CAPTIONS[:2]), clip(grey.expand(-1, 3, -1, -1), CAPTIONS[:2]))
    long = "word " * 200
    assert torch.equal(clip(grey[:1], [long]), clip(grey[:1], [long * 2]))


def test_what_is_refused(clip_weights, tmp_path, monkeypatch):
    path, digest = clip_weights
    with pytest.raises(ValueError, match=f"its SHA-256 is {digest}, not {CLIPS['vit_b32'].sha256}"):
        load_clip("vit_b32", path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="--download fetches it, --clip-weights FILE reads it from a file"):
        load_clip("vit_l14")
    with pytest.raises(ValueError, match=r"clip.bin: not OpenAI's CLIP ViT-B/32"):
        (tmp_path / "clip.bin").write_bytes(path.read_bytes())
        ClipNetwork("vit_b32", tmp_path / "clip.bin", digest)
    monkeypatch.setattr(clip_features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package open_clip_torch: pip install 'ulzoo\[clip\]'"):
        load_clip("vit_l14", path)
