"""Distances between sets of images: against torch-fidelity on the same files, and which sets are compared."""

import json
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ulzoo.data import DataContract, Emoji3D, ImageFolder, in_order
from ulzoo.data.fingerprint import fingerprint
from ulzoo.data.source import TensorSource
from ulzoo.evaluation import EvaluationConfig, FrechetConfig, evaluate, execution
from ulzoo.evaluation.execution import Execution
from ulzoo.evaluation.feature_metrics import FeatureCollector
from ulzoo.evaluation.features import images as image_features
from ulzoo.evaluation.features.images import ImageFeatures, efficientnet_lite0, inception_v3
from ulzoo.evaluation.frechet import Moments, frechet_distance
from ulzoo.evaluation.image_distances import collect_reconstructions, image_distances, reconstruction_distance
from ulzoo.evaluation.reference import (
    Reference,
    read_statistics,
    reference_statistics,
    write_statistics,
)
from ulzoo.evaluation.sample_distance import sample_distance
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
        features = images.float().mean((2, 3))[:, :2]
        return features, features


def means(name="fd_means"):
    return ImageFeatures(Means(), name, {"network": "none", "network_sha256": "0"}, 2)


class Model(SimpleNamespace):
    """Reconstructions are one level too bright; samples are noise with a mean of 100 plus ten times the label."""

    def __init__(self, classes=0):
        sampling = {"base": Sampling(guidance=2.0), "decoder": Sampling("ddim", 5)}
        contract = Contract((SIDE, SIDE), 3, (1, 1), 1, 5.0, sampling=sampling)
        base = SimpleNamespace(num_classes=classes, takes_text=False)
        super().__init__(contract=contract, base=base, device=torch.device("cpu"), calls=[])

    def encode(self, x, *, generator):
        return x

    def noise_latents(self, z_clean, *, generator):
        return z_clean

    def select_decoder(self, network=None, steps=None):
        return None, self.contract.sampling_with("decoder", steps, None)

    def decode(self, z_0, *, steps, generator, labels, frames=None, text=None, network=None):
        return z_0 + 1 / 127.5

    def sample(self, n, *, labels=None, guidance=None, steps=None, generator=None, text=None, network=None):
        self.calls.append((labels, guidance))
        noise = torch.stack([torch.randint(0, 50, (3, SIDE, SIDE), generator=g) for g in generator.streams.generators])
        return from_uint8((100 + noise + (0 if labels is None else 10 * labels.reshape(-1, 1, 1, 1))).byte())


def source(n=30):
    images = torch.randint(0, 250, (n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()
    return TensorSource(
        images,
        labels=[i // 10 for i in range(n)],
        keys=[str(i) for i in range(n)],
        contract=DataContract(3, SIDE, 3),
    )


def statistics(features, cache, keep=False, n=30):
    config = EvaluationConfig({}, batch_size=7)
    return reference_statistics(source(n), features, config, keep_features=keep, cache=cache)


def compared_reconstructions(model, features, reference, config, execution=None):
    """`reconstruction_distance` of the source above, by a pass of its own."""
    collector, execution = FeatureCollector(features, reference.features is not None), execution or Execution()
    collect_reconstructions(model, source(), collector, config, execution=execution)
    results = reconstruction_distance(model, source(), collector, reference, config)
    execution.finish()
    return results


def compared_samples(model, features, reference, *, samples, execution=None, save_samples=None, **options):
    """`sample_distance` from the source above."""
    frechet = FrechetConfig(
        features, samples=samples, reference=source(), reference_split="val", save_samples=save_samples
    )
    execution = execution or Execution()
    results = sample_distance(model, reference, EvaluationConfig({}, **options), frechet, execution=execution)
    execution.finish()
    return results


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
def test_distances_are_torch_fidelity_s_on_the_same_files(folders, tmp_path):
    """Fréchet and kernel distance, precision and recall by both programs on the same two folders."""
    import torch_fidelity

    features = efficientnet_lite0()
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders / "a"), input2=str(folders / "b"), feature_extractor=image_features.OFFLINE, fid=True,
        kid=True, prc=True, kid_subset_size=40, rng_seed=0, batch_size=16, cuda=False, cache=False, verbose=False,
    )  # fmt: skip
    sources = {
        name: ImageFolder("val", root=folders / name, resolution=64, val_fraction=0.999, hflip=False) for name in "ab"
    }
    assert [len(images) for images in sources.values()] == [40, 40]
    config = EvaluationConfig({})
    reference = reference_statistics(sources["b"], features, config, keep_features=True, cache=tmp_path)
    collector = FeatureCollector(features, keep=True)
    for batch in in_order(sources["a"], 16):
        collector.add(batch["x"])
    with pytest.warns(UserWarning, match="of 40 images: with no more images than its 320 dimensions"):
        figures, _ = collector.metrics("g", reference, seed=0)
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
    reference = statistics(features, tmp_path)
    config = EvaluationConfig({"kind": "x"}, batch_size=7)
    results = compared_reconstructions(Model(), features, reference, config)
    assert results["figures"] == {"rfd_means": pytest.approx(2)}  # all means are one level higher
    protocol = results["protocol"]
    assert json.loads(json.dumps(results)) == results
    assert (protocol["samples"], protocol["split"], protocol["decoder_steps"]) == (30, "val", 5)
    assert protocol["reference_sha256"] == reference.sha256 and protocol["figures"] == ["rfd_means"]
    first = statistics(features, tmp_path, n=9)
    few = compared_reconstructions(Model(), features, first, EvaluationConfig({}, limit=9))
    assert few["protocol"]["samples"] == 9 and few["figures"]["rfd_means"] == pytest.approx(2)


def test_samples_get_the_classes_of_the_reference(tmp_path):
    features, model = means(), Model(classes=3)
    reference = statistics(features, tmp_path)
    results = compared_samples(model, features, reference, samples=6, batch_size=4)
    assert torch.cat([labels for labels, _ in model.calls]).tolist() == [0, 0, 1, 1, 2, 2]
    assert results["protocol"]["guidance"] == 2.0 and "even distances" in results["protocol"]["labels"]
    model.calls.clear()
    compared_samples(model, features, reference, samples=33, batch_size=4)
    assert torch.cat([labels for labels, _ in model.calls]).tolist() == [i // 10 % 3 for i in range(33)]
    unconditional = Model()
    results = compared_samples(unconditional, features, reference, samples=6, batch_size=4)
    assert unconditional.calls == [(None, None)] * 2 and results["protocol"]["guidance"] == 1.0
    with pytest.raises(ValueError, match="takes neither"):
        compared_samples(unconditional, features, reference, samples=6, guidance=2.0)


def test_samples_depend_on_the_seed(tmp_path):
    features = means()
    reference = statistics(features, tmp_path)

    def distance(**options):
        options = {"samples": 20, "batch_size": 5} | options
        return compared_samples(Model(), features, reference, **options)["figures"]["gfd_means"]

    torch.randn(3)
    assert distance() == distance() and distance(seed=1) != distance()
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        distance(samples=1)
    untrained = Model()
    untrained.base = None
    with pytest.raises(ValueError, match="has no base"):
        compared_samples(untrained, features, reference, samples=4)


def test_a_reference_is_fingerprinted_once_and_the_bias_of_few_samples_is_named(tmp_path, monkeypatch):
    features = means()
    reference = statistics(features, tmp_path)
    assert reference == replace(statistics(features, tmp_path), gaussian=reference.gaussian)  # from the cache
    monkeypatch.setattr("ulzoo.evaluation.sample_distance.fingerprint", None)
    results = compared_samples(Model(classes=3), features, reference, samples=8)
    assert results["protocol"]["fingerprint"] == reference.fingerprint == fingerprint(source()).identity
    (line,) = results["cautions"]
    assert line.startswith("gfd_means of 8 images and 30 real ones is ") and "one distribution are about " in line
    far = replace(reference, gaussian=Moments(reference.gaussian.mean + 100, reference.gaussian.covariance))
    assert compared_samples(Model(), features, far, samples=8)["cautions"] == []


class Counting(Model):
    """Counts its calls, and is interrupted in the n-th."""

    def __init__(self, weight=0.0, stop=0):
        super().__init__()
        self.weight, self.stop, self.count = weight, stop, 0

    def decode(self, *args, **kwargs):
        self.count_call()
        return super().decode(*args, **kwargs)

    def sample(self, *args, **kwargs):
        self.count_call()
        return super().sample(*args, **kwargs)

    def count_call(self):
        self.count += 1
        if self.count == self.stop:
            raise KeyboardInterrupt

    def state_dict(self):
        return {"weight": torch.arange(3.0) + self.weight}


@pytest.mark.parametrize("what", ["reconstructions", "samples"])
def test_an_interrupted_evaluation_ends_in_the_same_bits(tmp_path, monkeypatch, what):
    monkeypatch.setattr(execution, "SAVE_INTERVAL", 0)
    features = means()
    reference, folder = statistics(features, tmp_path), tmp_path / "unfinished"

    def distance(model, folder=folder, **options):
        options, resumable = {"batch_size": 5} | options, Execution(folder=folder)
        if what == "samples":
            return compared_samples(model, features, reference, samples=30, execution=resumable, **options)
        return compared_reconstructions(model, features, reference, EvaluationConfig({}, **options), resumable)

    uninterrupted = distance(Counting(), None)
    with pytest.raises(KeyboardInterrupt):
        distance(Counting(stop=4))
    files = list(folder.glob("*.npz"))
    assert len(files) == 1
    for other in (distance(Counting(weight=1.0)), distance(Counting(), seed=1), distance(Counting(), batch_size=7)):
        assert other["protocol"]["samples"] == 30
    assert list(folder.glob("*.npz")) == files
    again = Counting()
    assert distance(again) == uninterrupted and again.count == 3
    assert not list(folder.glob("*.npz"))
    folder.mkdir(exist_ok=True)
    files[0].write_bytes(b"damaged")
    again = Counting()
    assert distance(again) == uninterrupted and again.count == 6


def test_saved_samples_are_those_that_were_compared(tmp_path):
    path, reference = tmp_path / "samples.npz", statistics(means(), tmp_path)
    results = compared_samples(Model(), means(), reference, samples=7, batch_size=3, save_samples=path)
    with np.load(path) as file:
        assert file.files == ["arr_0"] and file["arr_0"].shape == (7, SIDE, SIDE, 3)
        written = torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2)
    collector = FeatureCollector(means(), keep=False)
    collector.add(from_uint8(written))
    figures, _ = collector.metrics("g", statistics(means(), tmp_path), seed=0)
    assert figures == pytest.approx(results["figures"])


@pytest.mark.parametrize("failing", ["open", "write", "_write_end_record"])
def test_a_full_disk_loses_the_file_and_not_the_metrics(failing, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    path, reference = tmp_path / "samples.npz", statistics(means(), tmp_path)
    path.write_bytes(b"previous")
    expected = compared_samples(Model(), means(), reference, samples=7, batch_size=3)
    owner = zipfile._ZipWriteFile if failing == "write" else zipfile.ZipFile
    monkeypatch.setattr(owner, failing, full)
    with pytest.warns(UserWarning, match=r"samples\.npz: not written: No space left on device"):
        results = compared_samples(Model(), means(), reference, samples=7, batch_size=3, save_samples=path)
    assert results["figures"] == expected["figures"]
    assert results["not_written"] == {str(path): "No space left on device"}
    assert path.read_bytes() == b"previous" and not (tmp_path / ".samples.npz.tmp").exists()


def test_statistics_that_cannot_be_written_lose_no_metrics(tmp_path, monkeypatch):
    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Model, "state_dict", dict, raising=False)
    path = tmp_path / "mean.npz"
    expected = image_distances(Model(), source(), EvaluationConfig({}), FrechetConfig(means()))
    assert "not_written" not in expected
    monkeypatch.setattr(sys.modules["ulzoo.evaluation.image_distances"], "write_statistics", full)
    with pytest.warns(UserWarning, match=r"mean\.npz: not written: No space left on device"):
        results = image_distances(Model(), source(), EvaluationConfig({}), FrechetConfig(means(), save_statistics=path))
    assert results == {**expected, "not_written": {str(path): "No space left on device"}}


def test_a_full_cache_is_a_warning(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    expected = statistics(means(), tmp_path)
    monkeypatch.setattr("ulzoo.evaluation.reference.np.savez", full)
    with pytest.warns(UserWarning, match="the statistics are not kept: No space left on device"):
        assert statistics(means(), tmp_path / "other").sha256 == expected.sha256


def test_destinations_are_checked_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for name in ("save_samples", "save_statistics"):
        frechet = FrechetConfig(means(), samples=4, reference=source(), **{name: tmp_path / "file" / "a.npz"})
        with pytest.raises(ValueError, match="cannot be written"):
            evaluate(Model(), source(), EvaluationConfig({}), frechet)
        with pytest.raises(ValueError, match="cannot be written"):
            image_distances(Model(), source(), EvaluationConfig({}), frechet)


def test_a_sample_file_has_the_pixels_in_order(tmp_path):
    images = torch.randint(0, 256, (7, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()
    with SampleFile(tmp_path / "samples.npz", 7, (SIDE, SIDE)) as file:
        for batch in images.split(3):
            file.add(batch)
    with np.load(tmp_path / "samples.npz") as file:
        assert np.array_equal(file["arr_0"], images.permute(0, 2, 3, 1))


def test_names_of_metrics(tmp_path):
    """The name of FID ends in thousands; kept features give further metrics."""
    features = means("fid")
    reference = statistics(features, tmp_path, keep=True)
    figures = compared_samples(Model(), features, reference, samples=1000, batch_size=500)["figures"]
    assert set(figures) == {"gfid_1k", "gkid", "gprecision", "grecall", "inception_score"}
    results = compared_samples(Model(), features, statistics(features, tmp_path), samples=1001, batch_size=500)
    assert set(results["figures"]) == {"gfid"} and "caution" not in results["protocol"]


def test_statistics_are_computed_once_for_the_same_images(tmp_path):
    features, done = means(), []
    config = EvaluationConfig({"a": 1}, batch_size=15)
    options = {"cache": tmp_path, "execution": Execution(on_progress=done.append)}
    first = reference_statistics(source(), features, config, **options)
    assert done == [15, 30]
    again = reference_statistics(source(), features, config, **options)
    assert done == [15, 30, 30] and (again.images, again.sha256) == (30, first.sha256)
    assert frechet_distance(again.gaussian, first.gaussian) == pytest.approx(0, abs=1e-9)
    changed = source()
    changed.images[17, 0, 0, 0] ^= 1
    other = reference_statistics(changed, features, config, **options)
    assert done[3:] == [15, 30] and other.sha256 != first.sha256
    reference_statistics(source(), features, replace(config, split="train"), **options)
    reference_statistics(source(), features, replace(config, limit=20), **options)
    reference_statistics(source(), means("fd_other"), config, **options)
    assert len(list(tmp_path.glob("*.npz"))) == 5
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        reference_statistics(source(), features, replace(config, limit=1), **options)


def test_statistics_of_images_that_were_replaced_or_repaired_are_computed_again(tmp_path):
    """A single file of the same size, which is none of the 32 in the fingerprint; a copy has statistics of its own."""
    rng, features, config = np.random.default_rng(0), means(), EvaluationConfig({"a": 1})
    for i in range(120):
        path = tmp_path / "images" / ("val" if i < 100 else "train") / f"{i:03}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)

    def statistics() -> str:
        source = ImageFolder("val", root=str(tmp_path / "images"), resolution=SIDE)
        return reference_statistics(source, features, config, cache=tmp_path / "cache").sha256

    first, path = statistics(), tmp_path / "images/val/050.bmp"
    assert statistics() == first and len(list((tmp_path / "cache").iterdir())) == 1
    content = path.read_bytes()
    Image.new("RGB", (SIDE, SIDE)).save(path)
    assert statistics() != first
    path.write_bytes(content)
    assert statistics() == first and len(list((tmp_path / "cache").iterdir())) == 3


def test_statistics_of_other_programs(tmp_path):
    """ADM's files also have the arrays for sFID, EDM's only these two; both can read ours."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    mu, sigma = x.mean(0), np.cov(x, rowvar=False)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, mu_s=np.zeros(5), sigma_s=np.eye(5))
    np.savez(tmp_path / "edm.npz", mu=mu.astype(np.float32), sigma=sigma.astype(np.float32))
    for name, tolerance in (("adm", 1e-12), ("edm", 1e-6)):
        reference = read_statistics(tmp_path / f"{name}.npz", 3)
        np.testing.assert_allclose(reference.gaussian.mean, mu, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(reference.gaussian.covariance, sigma, rtol=tolerance, atol=tolerance)
        assert reference.gaussian.mean.dtype == torch.float64 and reference.images is None
        assert reference.sha256 == sha256(tmp_path / f"{name}.npz")
    write_statistics(tmp_path / "deep" / "ours.npz", Reference(reference.gaussian, 50, "ab"), {"network": "x"})
    with np.load(tmp_path / "deep" / "ours.npz") as file:
        np.testing.assert_allclose(file["mu"], mu, rtol=1e-6)
    ours = read_statistics(tmp_path / "deep" / "ours.npz", 3)
    assert (ours.images, ours.sha256) == (50, "ab")


def test_files_that_are_not_statistics(tmp_path):
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
    """They vary between images, do not depend on the batch, and are equal for grey images and their RGB copies."""
    features = efficientnet_lite0()
    images = to_uint8(next(in_order(Emoji3D("val", resolution=32), 4))["x"])
    vectors, logits = features(images)
    assert vectors.shape == (4, 320) and logits is None and vectors.std(0).min() > 0
    assert torch.allclose(features(images[2:3])[0], vectors[2:3], atol=1e-4)
    grey = images[:, :1]
    assert torch.equal(features(grey)[0], features(grey.expand(-1, 3, -1, -1))[0])
    assert len(features.protocol["network_sha256"]) == 64
    monkeypatch.setattr(image_features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ulzoo\[offline-metrics\]'"):
        efficientnet_lite0()


def test_efficientnet_s_features_are_the_package_s():
    """Folding normalisations and paddings into convolutions, and small batches, change nothing."""
    from efficientnet_lite_pytorch import EfficientNet

    theirs, heads = EfficientNet.from_name("efficientnet-lite0"), []
    theirs.load_state_dict(torch.load(image_features._lite0_weights(), weights_only=True))
    theirs._conv_head.register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0]))
    images = to_uint8(next(in_order(Emoji3D("val", resolution=32), 18))["x"])
    pixels = torch.nn.functional.interpolate(images.float(), (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        theirs.eval().extract_features((pixels - 127) / 128)
    torch.testing.assert_close(efficientnet_lite0()(images)[0], heads[0].mean((2, 3)), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A file with random weights of Inception."""
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
    vectors, logits = features(images)
    torch.testing.assert_close(vectors, theirs(images)[0], rtol=1e-4, atol=1e-10)
    assert logits.shape == (2, 1008)
    assert (features.name, features.dimension) == ("fid", vectors.shape[1])
    assert features.protocol["network_sha256"] == sha256(inception)


@pytest.mark.slow
def test_files_that_are_not_inception_s_weights(inception, tmp_path):
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
