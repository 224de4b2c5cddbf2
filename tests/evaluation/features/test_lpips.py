"""LPIPS against torchmetrics, shift-tolerant LPIPS against its package, and which weights are read."""

import sys
from types import ModuleType

import pytest
import torch
from torchmetrics.functional.image import lpips as torchmetrics_lpips

from ulzoo.data import Emoji3D, in_order
from ulzoo.evaluation.features import lpips as module
from ulzoo.evaluation.features.lpips import TRUNKS, lpips, shift_tolerant_lpips
from ulzoo.files.atomic import sha256
from ulzoo.media.pixels import from_uint8, to_uint8


@pytest.fixture(scope="module")
def images():
    return from_uint8(to_uint8(next(in_order(Emoji3D("val", resolution=64), 4))["x"]))


@pytest.fixture(scope="module")
def st():
    before = torch.get_rng_state()
    network = shift_tolerant_lpips()
    assert torch.equal(torch.get_rng_state(), before)
    return network


def noisy(x, amount):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return from_uint8(to_uint8(x + amount * noise))


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_it_is_torchmetrics(network, images, tmp_path):
    """The same network with random weights, saved under torchvision's names, and the published channel weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchmetrics_lpips._LPIPS(net=network, pnet_rand=True)
    tensors = theirs.net.state_dict()
    names = {name: f"features.{name.split('.', 1)[1]}" for name in tensors}
    others = {"classifier.1.weight": torch.zeros(2)}  # an unused tensor, as in torchvision's file
    torch.save({names[name]: value for name, value in tensors.items()} | others, tmp_path / "trunk.pth")
    ours = lpips(network, tmp_path / "trunk.pth", sha256(tmp_path / "trunk.pth"))
    y = noisy(images, 0.3)
    with torch.no_grad():
        expected = theirs(images, y).flatten()
    assert expected.min() > 1e-3
    assert ours(images, y).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert ours.name == f"lpips_{network}" and ours.protocol["network_sha256"] == sha256(tmp_path / "trunk.pth")
    side = ours.min_side
    assert ours(images[..., :side, :side], y[..., :side, :side]).isfinite().all()
    with pytest.raises(RuntimeError):
        ours(images[..., : side - 1, : side - 1], y[..., : side - 1, : side - 1])


def test_other_weights_are_not_read(tmp_path):
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"not {TRUNKS['alex'].sha256}; it was not loaded"):
        lpips("alex", tmp_path / "x.pth", TRUNKS["alex"].sha256)
    with pytest.raises(ValueError, match=r"x\.pth: not torchvision's AlexNet") as error:
        lpips("alex", tmp_path / "x.pth", sha256(tmp_path / "x.pth"))
    assert "\n" not in str(error.value)


def test_without_weights_or_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"AlexNet \(233 MB\): --download .* --lpips-weights FILE .*; st_alex is"):
        TRUNKS["alex"].find(None)
    for trunk in TRUNKS.values():
        assert trunk.cached.endswith(f"-{trunk.sha256[:8]}.pth") and trunk.url.endswith(trunk.cached[11:])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"stlpips-pytorch: pip install 'ulzoo\[offline-metrics\]'"):
        shift_tolerant_lpips()
    with pytest.raises(ValueError, match=r"package lpips: pip install 'ulzoo\[lpips\]'"):
        lpips("vgg", tmp_path / "x.pth", "00")


def test_shift_tolerant_lpips_is_its_package_s(st, images, monkeypatch):
    for name, what in (("IPython", "embed"), ("torchsummary", "summary")):  # imported by the package, but not used
        stub = ModuleType(name)
        setattr(stub, what, None)
        monkeypatch.setitem(sys.modules, name, stub)
    from stlpips_pytorch.stlpips import LPIPS

    y = noisy(images, 0.2)
    with torch.no_grad():
        expected = LPIPS(net="alex", variant="shift_tolerant", verbose=False)(images, y).flatten()
    assert st(images, y).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_distance_grows_with_noise_but_hardly_with_a_shift(st, images):
    assert st(images, images).tolist() == [0, 0, 0, 0]
    distances = torch.stack([st(images, noisy(images, amount)) for amount in (0.02, 0.1, 0.3, 1.0)])
    assert (distances[0] > 0).all() and (distances.diff(dim=0) > 0).all()
    assert (st(images, images.roll(1, -1)) < distances[1]).all()
    assert torch.allclose(st(images, noisy(images, 0.3)), st(noisy(images, 0.3), images))
    grey = images[:, :1]
    assert torch.equal(st(grey, -grey), st(grey.expand_as(images), -grey.expand_as(images)))
    side = st.min_side
    assert st(images[..., :side, :side], images[..., -side:, -side:]).isfinite().all()
