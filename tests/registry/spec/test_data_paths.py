"""A relative path of a spec's data is beside the file that it is written in, and a run records where it was."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from ulzoo.registry import load_spec
from ulzoo.registry.compile import open_source
from ulzoo.registry.cost.plan import count_images
from ulzoo.registry.spec.data_paths import FILE, is_relative, read_data_paths
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.sweep import load_sweep
from ulzoo.registry.sweeps.jobs import plan_jobs
from ulzoo.registry.sweeps.store import Store

TINY = Path(__file__).parents[2] / "tiny.yaml"


@pytest.fixture
def project(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `project/my.yaml` and its images in `project/pictures`; the working directory is beside it."""
    folder = tmp_path / "project"
    shutil.copytree(images, folder / "pictures")
    (folder / "my.yaml").write_text(f"extends: {TINY}\ndata: {{root: pictures}}\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_a_root_is_relative_to_the_file_of_the_spec(project: Path) -> None:
    spec = load_spec(project / "my.yaml")
    assert len(open_source(spec, "val")) == 6 and count_images(spec) == 44
    assert spec.data.root == "pictures" and spec.to_dict()["data"]["root"] == "pictures"  # type: ignore[attr-defined]
    assert len(open_source(load_spec("../project/my.yaml"), "val")) == 6
    assert len(open_source(pickle.loads(pickle.dumps(spec)), "val")) == 6


def test_hashes_are_the_same_wherever_the_file_is(project: Path, tmp_path: Path) -> None:
    first = load_spec(project / "my.yaml")
    shutil.move(project, tmp_path / "moved")
    moved = load_spec(tmp_path / "moved" / "my.yaml")
    assert moved.hash == first.hash == spec_from_dict(first.to_dict()).hash and moved == first
    assert len(open_source(moved, "val")) == 6
    with pytest.raises(ValueError, match=r"data: .*/project/pictures: no such folder"):
        open_source(first, "val")


def test_a_root_that_is_not_beside_the_file_is_in_the_working_directory(project: Path, images: Path) -> None:
    shutil.move(project / "pictures", "pictures")
    assert len(open_source(load_spec(project / "my.yaml"), "val")) == 6
    shutil.copytree(images, project / "pictures")
    shutil.rmtree("pictures/val")
    assert len(open_source(load_spec(project / "my.yaml"), "val")) == 6  # beside the file comes first


def test_an_override_is_relative_to_the_working_directory(project: Path, images: Path) -> None:
    shutil.copytree(images, "pictures")
    shutil.rmtree("pictures/val/even")
    spec = load_spec(project / "my.yaml", ["data.root=pictures"])
    assert len(open_source(spec, "val")) == 3 and spec.hash == load_spec(project / "my.yaml").hash


def test_a_root_is_beside_the_file_that_has_it_not_the_one_that_extends_it(project: Path) -> None:
    (project / "deep").mkdir()
    (project / "deep" / "other.yaml").write_text("extends: ../my.yaml\nname: other\ndata: {hflip: false}\n")
    assert len(open_source(load_spec(project / "deep" / "other.yaml"), "val")) == 6


def test_data_of_a_stage_and_other_kinds_of_paths(project: Path) -> None:
    other = f"extends: {TINY}\ndata: {{root: /a}}\n"
    other += "train: {latents: {data: {kind: image_folder, root: pictures, resolution: 16}}}\n"
    (project / "other.yaml").write_text(other)
    assert len(open_source(load_spec(project / "other.yaml"), "val", "latents")) == 6
    assert [is_relative(path) for path in ("a", "./a", "/a", "~/a", "s3://a/b")] == [True, True, False, False, False]


def test_points_of_a_sweep_have_the_data_of_their_spec(project: Path) -> None:
    points = "points: {a: {set: {latent.channels: 3}}}\n"
    (project / "sweep.yaml").write_text(f"name: s\nspec: my.yaml\ncolumns: [psnr_db]\n{points}")
    (job,) = plan_jobs(load_sweep(project / "sweep.yaml"), Store(project / "store"))
    assert len(open_source(pickle.loads(pickle.dumps(job)).load_spec(), "val")) == 6


def test_what_a_run_records(project: Path) -> None:
    spec = load_spec(project / "my.yaml")
    run = project / "run"
    run.mkdir()
    spec.record_data_paths(run)
    assert read_data_paths(run) == {"data.root=pictures": os.path.join(project, "pictures")}
    (run / "spec.yaml").write_text(spec.to_yaml())
    assert len(open_source(load_spec(run / "spec.yaml"), "val")) == 6
    assert load_spec(run / "spec.yaml").hash == spec.hash
    other = load_spec(run / "spec.yaml", ["data.root=elsewhere"])
    with pytest.raises(ValueError, match="data: elsewhere: no such folder"):
        open_source(other, "val")


@pytest.mark.parametrize("content", ["", "[1]", '{"data.root=pictures": 3}', "{"])
def test_a_damaged_record_is_no_record(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert read_data_paths(tmp_path) == {}


def test_absolute_paths_are_not_recorded(project: Path) -> None:
    load_spec(project / "my.yaml", [f"data.root={json.dumps(str(project / 'pictures'))}"]).record_data_paths(project)
    assert not (project / FILE).exists()
