"""One pass over a split by all processes: equal metrics, each image read and reconstructed once, resumption."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ulzoo.data import DataContract
from ulzoo.data.source import TensorSource, Unreadable
from ulzoo.evaluation import EvaluationConfig, FrechetConfig, evaluate, execution, frame_prediction, rate_distortion
from ulzoo.evaluation.collected import ExampleValues
from ulzoo.evaluation.execution import Execution
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.reference import reference_statistics
from ulzoo.registry.compile import open_source
from ulzoo.runtime.devices import tf32_operations

IMAGES, BATCH = 21, 4


class Counting(TensorSource):
    """Counts how often each image is read."""

    def __init__(self, n=IMAGES):
        images = torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
        contract = DataContract(3, 16, 0)
        super().__init__(images, labels=[-1] * n, keys=[str(i) for i in range(n)], contract=contract)
        self.reads = [0] * n

    def __getitem__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)


class Features(nn.Module):
    """Means of red and of green."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return (images.double().mean((2, 3))[:, :2],)


@pytest.fixture
def model(tiny, untrained):
    """Makes copies of one untrained model, which share `decoded`, the images that they decode."""
    decoded = []

    def copy():
        model = untrained(tiny())
        decode = model._decode

        def counted(z_0, *args, **kwargs):
            decoded.append(len(z_0))
            return decode(z_0, *args, **kwargs)

        model._decode = counted
        return model

    copy.decoded = decoded
    return copy


def frechet(**options):
    features = ImageFeatures(Features(), "fd_means", {"network": "none", "network_sha256": "0"}, 2)
    return FrechetConfig(features, **options)


def test_processes_share_one_reconstruction_of_each_image(on_threads, model, monkeypatch, tmp_path):
    """All metrics are equal on one, two and three processes, to the last digits; the last batch is short."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = EvaluationConfig({}, batch_size=BATCH, rate_samples=2, decompose_rate=True)
    monkeypatch.setattr("ulzoo.data.fingerprint._read", lambda *_, **__: b"")
    source, results = Counting(), {}

    comparison = frechet()

    def evaluated(processes, trained):
        return evaluate(trained, source, config, comparison, processes=processes)

    on_threads(1, evaluated, model)  # the statistics of the reference are cached
    for size in (1, 2, 3):
        source.reads = [0] * IMAGES
        model.decoded.clear()
        results[size] = on_threads(size, evaluated, model)
        assert sum(model.decoded) == IMAGES, size
        assert source.reads == [1] * IMAGES, size
    assert results[1]["figures"].keys() >= {"psnr_db", "ssim", "bits_per_pixel", "base_bits_per_pixel", "rfd_means"}
    for size in (2, 3):
        assert results[size]["figures"] == pytest.approx(results[1]["figures"], rel=1e-6)
        assert results[size]["protocol"] == results[1]["protocol"]
        assert results[size]["rate"]["base"]["images"] == pytest.approx(results[1]["rate"]["base"]["images"], rel=1e-6)
        means = [results[n]["latent_statistics"]["mean"] for n in (size, 1)]
        assert means[0] == pytest.approx(means[1], rel=1e-6)


def test_skipped_examples_do_not_depend_on_the_processes(on_threads, model):
    class Damaged(Counting):
        skips_unreadable = True

        def __getitem__(self, index):
            if index in (2, 5, IMAGES - 1):
                raise Unreadable(f"image {index}: it is cut short")
            return super().__getitem__(index)

    config = EvaluationConfig({}, batch_size=BATCH, rate_samples=1)

    def measured(size):
        def work(processes, trained):
            return rate_distortion(trained, Damaged(), config, execution=Execution(processes))

        with pytest.warns(UserWarning, match="image 2: it is cut short and 2 more"):
            return on_threads(size, work, model)

    alone, shared = measured(1), measured(2)
    assert shared["figures"] == pytest.approx(alone["figures"], rel=1e-6) and shared["protocol"] == alone["protocol"]
    assert (alone["protocol"]["images"], alone["protocol"]["left_out"]) == (IMAGES - 3, 3)


def test_statistics_of_a_reference_are_shared(on_threads, tmp_path):
    """Only the main process reads all images, for their hash."""
    config, features, expected = EvaluationConfig({}, batch_size=BATCH), frechet().features, {}

    def computed(processes, _):
        execution = Execution(processes)
        reference = reference_statistics(Counting(), features, config, cache=tmp_path / str(size), execution=execution)
        expected[size, processes.rank] = reference
        return {} if processes.rank else reference

    for size in (1, 2):
        on_threads(size, computed)
    first = expected.pop((1, 0))
    assert len(expected) == 2
    for other in expected.values():
        assert (other.sha256, other.images) == (first.sha256, IMAGES)
        assert torch.allclose(other.gaussian.covariance, first.gaussian.covariance, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2])
def test_an_interrupted_pass_ends_in_the_same_bits(on_threads, model, monkeypatch, tmp_path, size):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(execution, "SAVE_INTERVAL", 0)
    config = EvaluationConfig({}, batch_size=BATCH, rate_samples=2, decompose_rate=True)
    comparison = frechet()

    def measured(limit=None, config=config):
        def work(processes, trained):
            if limit is not None and processes.is_main:
                decode, calls = trained._decode, []

                def limited(*args, **kwargs):
                    calls.append(1)
                    if len(calls) > limit:
                        raise KeyboardInterrupt
                    return decode(*args, **kwargs)

                trained._decode = limited
            return evaluate(trained, Counting(), config, comparison, processes=processes)

        model.decoded.clear()
        return on_threads(size, work, model)

    expected = measured()
    folder = tmp_path / "hub" / "ulzoo" / "unfinished"
    assert not list(folder.glob("*"))
    with pytest.raises(KeyboardInterrupt):
        measured(limit=2)
    assert len(list(folder.glob("*.npz"))) == size
    other = measured(config=replace(config, precision="bf16"))  # another protocol
    assert sum(model.decoded) == IMAGES and other["protocol"]["precision"] == "bf16"
    assert measured() == expected
    assert sum(model.decoded) == (IMAGES - 2 * BATCH if size == 1 else BATCH)  # a second process was not interrupted
    assert not list(folder.glob("*"))


def test_features_that_are_kept_are_shared_in_order(on_threads, model, monkeypatch, tmp_path):
    """Distances that are no functions of mean and covariance."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = EvaluationConfig({}, batch_size=BATCH, rate_samples=1, base_steps=1)
    comparison = frechet(samples=6, reference=Counting(), all_distances=True)

    def evaluated(processes, trained):
        return evaluate(trained, Counting(), config, comparison, processes=processes)

    alone, shared = on_threads(1, evaluated, model), on_threads(2, evaluated, model)
    assert alone["figures"].keys() >= {"rkd_means", "gkd_means", "gprecision_means", "rrecall_means"}
    assert shared["figures"] == pytest.approx(alone["figures"], rel=1e-6) and shared["protocol"] == alone["protocol"]


def test_a_pass_is_not_repeated_after_an_interruption_of_what_follows(model, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(execution, "SAVE_INTERVAL", 0)
    config = EvaluationConfig({}, batch_size=BATCH, rate_samples=1, base_steps=1)
    comparison = frechet(samples=6, reference=Counting())
    expected = evaluate(model(), Counting(), config, comparison)
    interrupted = model()
    interrupted.sample = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(interrupted, Counting(), config, comparison)
    model.decoded.clear()
    assert evaluate(model(), Counting(), config, comparison) == expected
    assert sum(model.decoded) == 6
    assert not list((tmp_path / "hub" / "ulzoo" / "unfinished").glob("*"))


def test_values_are_merged_in_the_order_of_the_batches():
    processes = [ExampleValues() for _ in range(3)]
    for number, batch in enumerate(torch.arange(10.0).split(3)):  # of 3, 3, 3 and 1 examples
        processes[number % 3].add("value", batch)
        processes[number % 3].add_to_sum("total", batch.sum())
    merged = ExampleValues()
    merged.restore([values.state() for values in processes])
    assert merged.rows("value").tolist() == list(range(10)) and merged.sum("total") == 45
    few = [ExampleValues() for _ in range(2)]
    few[0].add("value", torch.ones(2, 3))
    merged.restore([values.state() for values in few])
    assert merged.rows("value").shape == (2, 3) and "total" not in merged


def test_frame_prediction_is_shared(tiny_video, on_threads, untrained):
    spec = tiny_video()
    source, config = open_source(spec, "val"), EvaluationConfig({}, limit=5, batch_size=2, base_steps=1)

    def predicted(processes, trained):
        return frame_prediction(trained, source, config, execution=Execution(processes))

    alone, shared = (on_threads(size, predicted, lambda: untrained(spec)) for size in (1, 2))
    assert shared["protocol"] == alone["protocol"] and shared["protocol"]["clips"] == 5
    for name, value in alone["figures"].items():
        assert shared["figures"][name] == pytest.approx(value, rel=1e-6), name


def test_tensorfloat_32_is_part_of_the_protocol(monkeypatch):
    cuda, config = torch.device("cuda"), EvaluationConfig({})
    assert tf32_operations(torch.device("cpu")) == [] and config.numerics(torch.device("cpu")) == {}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert config.numerics(cuda) == {"tf32": ["convolutions"]}
    torch.set_float32_matmul_precision("high")
    try:
        assert tf32_operations(cuda) == ["matrix products", "convolutions"]
    finally:
        torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert replace(config, precision="bf16").numerics(cuda) == {"precision": "bf16"}
