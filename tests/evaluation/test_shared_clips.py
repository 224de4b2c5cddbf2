"""Distances of clips on several processes: equal metrics, each clip read and sampled once, resumption."""

import json
from copy import deepcopy
from functools import partial

import pytest
import torch

from ulzoo.data import DataContract
from ulzoo.data.source import TensorSource, Unreadable
from ulzoo.evaluation import EvaluationConfig, FrechetConfig, execution, generation_distance
from ulzoo.evaluation.clip_protocols import ClipProtocol
from ulzoo.evaluation.execution import Execution

CLIPS = 7


class Clips(TensorSource):
    """Counts how often each clip is read; some cannot be read."""

    def __init__(self, unreadable=()):
        clips = torch.randint(0, 256, (CLIPS, 3, 8, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
        contract = DataContract(3, 32, 0, (), 8, 8.0)
        super().__init__(clips, labels=[-1] * CLIPS, keys=[str(i) for i in range(CLIPS)], contract=contract)
        self.reads, self.unreadable, self.skips_unreadable = [0] * CLIPS, unreadable, bool(unreadable)

    def __getitem__(self, index):
        if index in self.unreadable:
            raise Unreadable(f"clip {index}: it is cut short")
        self.reads[index] += 1
        return super().__getitem__(index)


class ClipMeans:
    """Means of red and of green."""

    name, dimension, protocol = "fd_means", 2, {"network": "none", "network_sha256": "0"}

    def __call__(self, clips):
        return clips.double().mean((2, 3, 4))[:, :2]


@pytest.fixture
def clip_model(tiny_video, untrained):
    """Makes copies of one model, without context frames or with three, which count the clips they sample."""
    sampled, models = [], {}

    def copy(context=3, limit=None):
        if context not in models:
            models[context] = untrained(tiny_video(f"conditioning.frames={context}"))
        model = deepcopy(models[context])
        sample, calls = model.sample, []

        def counted(n, **options):
            calls.append(n)
            if limit is not None and len(calls) > limit:
                raise KeyboardInterrupt
            sampled.append(n)
            return sample(n, **options)

        model.sample = counted
        return model

    copy.sampled = sampled
    return copy


FOLDS = ClipProtocol("x", 16, frames=8, context_frames=3, folds=2, samples=9, windows=1, crops=1)


def measure(processes, trained, frechet, folder=None):
    """The distance on one of several processes."""
    config = EvaluationConfig({}, batch_size=2, base_steps=1)
    return generation_distance(trained, config, frechet, execution=Execution(processes, folder))


def same_metrics(results, expected):
    """Whether protocols are equal and metrics agree to a relative 1e-6."""
    assert results["protocol"] == expected["protocol"]
    assert results["figures"].keys() == expected["figures"].keys()
    return all(
        results["figures"][name] == pytest.approx(value, rel=1e-6) for name, value in expected["figures"].items()
    )


@pytest.mark.parametrize(
    ("context", "options", "reads", "sizes"),
    [
        (3, {"samples": CLIPS}, CLIPS, (2, 3)),  # each clip is read once, for its features and its first frames
        (3, {"samples": CLIPS + 3}, CLIPS + 3, (2,)),
        (0, {"samples": CLIPS + 3}, CLIPS, (2,)),
        (3, {"clip_protocol": FOLDS}, CLIPS + 18, (2,)),
    ],
)
def test_processes_share_the_clips(clip_model, on_threads, context, options, reads, sizes, monkeypatch):
    monkeypatch.setattr("ulzoo.data.fingerprint._read", lambda *_, **__: b"")
    results = {}
    for size in (1, *sizes):
        source = Clips()
        frechet = FrechetConfig(ClipMeans(), reference=source, **options)
        clip_model.sampled.clear()
        work = partial(measure, frechet=frechet)
        results[size] = on_threads(size, work, lambda: clip_model(context))
        assert sum(source.reads) == reads and min(source.reads) >= 1, size
        assert sum(clip_model.sampled) == results[1]["protocol"]["clips"], size
        assert same_metrics(results[size], results[1])


PROCESS = """
import json
from pathlib import Path

import torch
import torch.distributed as dist

from ulzoo.evaluation import EvaluationConfig, FrechetConfig, generation_distance
from ulzoo.evaluation.execution import Execution
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.runtime.processes import ProcessGroup

class ClipMeans:
    name, dimension, protocol = "fd_means", 2, {"network": "none"}

    def __call__(self, clips):
        return clips.double().mean((2, 3, 4))[:, :2]

torch.set_num_threads(1)
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
spec = spec_from_dict(spec)
torch.manual_seed(0)
model = compile_model(spec).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.05)
frechet = FrechetConfig(ClipMeans(), samples=7, reference=open_source(spec, "val"))
config = EvaluationConfig({}, batch_size=2, base_steps=1)
results = generation_distance(model, config, frechet, execution=Execution(ProcessGroup(rank, size)))
if rank == 0:
    Path(folder, f"{size}.json").write_text(json.dumps(results))
else:
    assert results == {}
if size > 1:
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_over_gloo(forkserver, tiny_video, tmp_path):
    names = {"spec": tiny_video().to_dict(), "folder": str(tmp_path)}
    group = [(0, 1), (0, 2), (1, 2)]
    processes = [
        forkserver.Process(target=exec, args=(PROCESS, {**names, "rank": rank, "size": size})) for rank, size in group
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone, shared = (json.loads((tmp_path / f"{size}.json").read_text()) for size in (1, 2))
    assert same_metrics(shared, alone) and alone["protocol"]["clips"] == 7


@pytest.mark.parametrize("options", [{"samples": CLIPS + 3}, {"clip_protocol": FOLDS}])
def test_clips_that_cannot_be_read_do_not_depend_on_the_processes(clip_model, on_threads, options):
    results = []
    for size in (1, 2):
        frechet = FrechetConfig(ClipMeans(), reference=Clips(unreadable=(0, CLIPS - 1)), **options)
        with pytest.warns(UserWarning, match="clip 0: it is cut short and 1 more"):
            results.append(on_threads(size, partial(measure, frechet=frechet), clip_model))
    alone, shared = results
    assert same_metrics(shared, alone)
    assert (alone["protocol"]["reference_clips"], alone["protocol"]["left_out"]) == (CLIPS - 2, 2)


@pytest.mark.parametrize(("size", "options"), [(1, {"clip_protocol": FOLDS}), (2, {"samples": CLIPS + 7})])
def test_interrupted_distances_of_clips_end_in_the_same_bits(
    clip_model, on_threads, monkeypatch, tmp_path, size, options
):
    monkeypatch.setattr(execution, "SAVE_INTERVAL", 0)
    work = partial(measure, frechet=FrechetConfig(ClipMeans(), reference=Clips(), **options))
    expected = on_threads(size, work, clip_model)
    total = sum(clip_model.sampled)
    work = partial(work, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        on_threads(size, work, lambda: clip_model(limit=3))
    clip_model.sampled.clear()
    assert on_threads(size, work, clip_model) == expected
    assert 0 < sum(clip_model.sampled) < total
