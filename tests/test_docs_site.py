"""The documentation as a site: built without warnings, with every public name in its reference, and the notebook."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import ulzoo
import ulzoo.diffusion
import ulzoo.nn
import ulzoo.registry

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from benchmarks import notebook  # noqa: E402

API = (ROOT / "docs" / "api.md").read_text("utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by mkdocs with warnings as errors."""
    pytest.importorskip("mkdocs")
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {"NO_MKDOCS_2_WARNING": "1", "PATH": ""}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert not re.search(r"WARNING|ERROR", process.stderr), process.stderr
    return out


@pytest.mark.slow
def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    pages |= {Path(name) for name in ("index.html", "contributing.html", "changelog.html", "tutorials/latents.html")}
    assert [page for page in sorted(pages) if not (site / page).exists()] == []


@pytest.mark.slow
def test_links_of_the_site(site: Path) -> None:
    """Every relative link and picture exists, files of the repository included."""
    missing = []
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # whose links begin at the site's address
            continue
        for target in re.findall(r'(?:href|src)="([^"]+)"', page.read_text("utf-8")):
            url = urlsplit(target)
            if not url.scheme and url.path and not (page.parent / url.path).exists():
                missing.append(f"{page.relative_to(site)}: {target}")
    assert missing == []
    assert (site / "repository/registry/zoo/releases/emoji32_tiny.yaml").exists()


@pytest.mark.slow
def test_the_reference_shows_docstrings(site: Path) -> None:
    text = (site / "api.html").read_text("utf-8")
    assert "Names of packaged specs that match a shell pattern" in text and "noise_latents" in text
    assert "push_to_hub" in text and "Load a trained model in eval mode" in text


def test_the_reference_has_every_public_name() -> None:
    documented = set(re.findall(r"[\w.]+", API))
    names = {f"ulzoo.{name}" for name in dir(ulzoo)}
    assert names <= documented, sorted(names - documented)
    objects = [*vars(ulzoo.registry)["_MODULES"], *ulzoo.nn.__all__]
    last = {name.split(".")[-1] for name in documented}
    assert [name for name in objects if name not in last] == []
    homes = {name: getattr(vars(ulzoo.diffusion)[name], "__module__", "") for name in ulzoo.diffusion.__all__}
    ours = {name: home for name, home in homes.items() if home.startswith("ulzoo.")}  # the others are type aliases
    assert [name for name, home in ours.items() if home not in documented and name not in last] == []


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    """Its stored outputs are those of its code: as many, of the same kinds, with the same text but for digits."""
    stored = json.loads(notebook.NOTEBOOK.read_text("utf-8"))
    executed = notebook.execute(stored)
    for before, after in zip(stored["cells"], executed["cells"], strict=True):
        old, new = before.get("outputs", []), after.get("outputs", [])
        assert [output["output_type"] for output in old] == [output["output_type"] for output in new]
        assert [sorted(output.get("data", [])) for output in old] == [sorted(output.get("data", [])) for output in new]
        words, others = (sorted(re.findall(r"[a-z]+", str([o.get("text") for o in outs]))) for outs in (old, new))
        assert words == others
    assert notebook.NOTEBOOK.stat().st_size < 300_000
