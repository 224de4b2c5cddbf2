"""The wheel installs one top-level package that lists, loads and samples models outside the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # links, since setuptools writes build/ and *.egg-info into the source folder
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"ulzoo"}


def test_the_wheel_contains_data_specs_weights_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "ulzoo/specs/emoji32_tiny.yaml",
        "ulzoo/specs/schema.json",
        "ulzoo/specs/paper/table2_loss_factor.yaml",
        "ulzoo/specs/paper/small/table2_loss_factor.yaml",
        "ulzoo/registry/cost/networks.json",
        "ulzoo/registry/zoo/costs.json",
        "ulzoo/registry/zoo/releases/emoji32_tiny.yaml",
        "ulzoo/registry/zoo/weights/emoji32_tiny.safetensors",
        "ulzoo/data/embedded/emoji3d-64-val.tar.gz",
        "ulzoo/data/embedded/LICENSE",
        "ulzoo/py.typed",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_installed_package_lists_loads_and_samples(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import ulzoo, pathlib, torch;"
        f"assert pathlib.Path(ulzoo.__file__).is_relative_to({str(site)!r});"
        "assert 'emoji32_tiny' in ulzoo.list_models(pretrained=True);"
        "x = ulzoo.load('emoji32_tiny').sample(2, steps=2);"
        "assert x.shape == (2, 3, 32, 32) and x.isfinite().all() and x.std() > 0.1"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
