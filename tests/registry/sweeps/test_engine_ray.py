"""The Ray engine on clusters of this machine: all points, the loss of a node, addresses without a cluster."""

import importlib.util
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from ulzoo.registry.sweeps.engine_ray import RayEngine
from ulzoo.registry.sweeps.jobs import SweepCallback, plan_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.store import VARYING, Store

TINY = Path(__file__).parents[2] / "tiny.yaml"
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs ray")


def plan(images: Path, folder: Path, channels: str = "2,3"):
    settings = [f"data.root={images}", f"latent.channels={channels}", "decoder.weighting.loss_factor=1,2,3"]
    settings += ["train.base.steps=4", "train.base.checkpoint_every=2"]
    settings += ["prior.backbone.dropout=0", "decoder.backbone.dropout=0"]  # every process draws its own masks
    sweep, overrides = sweep_from_options(str(TINY), {}, settings)
    return plan_jobs(sweep, Store(folder), overrides=overrides)


def same(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in VARYING}


@pytest.fixture
def cluster(request, monkeypatch):
    """Two nodes of one core each, or of as many as the test says."""
    node = NODE | {"num_cpus": getattr(request, "param", 1)}
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # otherwise they starve on a busy machine
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.second = cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


class Steps(SweepCallback):
    """Records the points whose steps were reported."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def step(self, job, stage, step, steps, images_per_second):
        self.seen.add(job.point)


@pytest.mark.slow
def test_a_node_that_is_lost_during_the_sweep(images, tmp_path, cluster):
    """Its point resumes on the other node from its last checkpoint: six rows, equal to those of a single process."""
    jobs, callback, rows = plan(images, tmp_path / "ray"), Steps(), []
    with pytest.raises(ValueError, match=r"a point needs 2 CPUs, the largest node of the Ray cluster has 1"):
        RayEngine(cluster.address, processes=2)
    for row in RayEngine(cluster.address, callback=callback).run(jobs):
        rows.append(row)
        if len(rows) == 2:
            cluster.remove_node(cluster.second, allow_graceful=False)
    assert len(rows) == 6 and {row["status"] for row in rows} == {"done"}
    assert len(Store(tmp_path / "ray").path.read_text().splitlines()) == 6
    assert callback.seen
    torch.set_num_threads(1)
    alone = {row["spec_hash"]: same(row) for row in map(run_point, plan(images, tmp_path / "alone"))}
    assert {row["spec_hash"]: same(row) for row in rows} == alone


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_points_of_two_processes_each_when_a_node_is_lost(images, tmp_path, cluster):
    rows = []
    for row in RayEngine(cluster.address, processes=2).run(plan(images, tmp_path / "ray", "2")):
        rows.append(row)
        if len(rows) == 1:
            cluster.remove_node(cluster.second, allow_graceful=False)
    assert [row["status"] for row in rows] == ["done"] * 3
    assert all(list((tmp_path / "ray" / row["folder"]).rglob("shard-00002-*")) for row in rows)
    torch.set_num_threads(1)
    alone = {row["spec_hash"]: row["figures"] for row in map(run_point, plan(images, tmp_path / "alone", "2"))}
    for row in rows:
        for name in ("bits_per_pixel", "psnr_db"):
            assert row["figures"][name] == pytest.approx(alone[row["spec_hash"]][name], rel=1e-3)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nowhere", "write HOST:PORT, ray://HOST:PORT or auto"),
        ("host:port", "write HOST:PORT"),
        ("127.0.0.1:99999", "no Ray cluster there"),
        ("ray://127.0.0.1:1", "no Ray cluster there (Connection refused)"),
        ("name.invalid:6379", "no Ray cluster there"),
    ],
)
def test_an_address_without_a_cluster(address, words):
    started = time.monotonic()
    with pytest.raises(ValueError) as caught:
        RayEngine(address)
    assert f"--address {address}: " in str(caught.value) and words in str(caught.value)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("address", [None, "auto"])
@pytest.mark.parametrize("value", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_the_variable_of_a_cluster_that_has_ended(monkeypatch, address, value):
    monkeypatch.setenv("RAY_ADDRESS", value)
    started = time.monotonic()
    with pytest.raises(ValueError) as caught:
        RayEngine(address)
    message = str(caught.value)
    assert message.startswith(f"RAY_ADDRESS={value} (unset it to start a cluster on this machine): ")
    assert message.endswith("no Ray cluster there (Connection refused)" if ":" in value else "or auto")
    assert "\n" not in message and time.monotonic() - started < 30


def test_an_address_is_preferred_to_the_variable(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match=r"--address 127\.0\.0\.1:2: no Ray cluster there"):
        RayEngine("127.0.0.1:2")


def test_a_port_of_another_service(monkeypatch):
    """A port that is open but not Ray's is an error too."""
    import ray

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(ray, "init", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no cluster\nmore")))
        with pytest.raises(ValueError, match=r"cannot join a Ray cluster \(no cluster\)"):
            RayEngine(f"127.0.0.1:{server.getsockname()[1]}")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'ulzoo\[ray\]'"):
        RayEngine()
