"""Hooks of mkdocs: the repository as a site.

Pages link to files of the repository by relative paths, so that they work where the repository is read. In the site
README.md, CONTRIBUTING.md and CHANGELOG.md are pages, and every other file outside docs/ that a page links to is copied
to `repository/`. Notebooks become pages.
"""

import base64
import json
import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Path in the repository -> path in the site."""
SOURCES = TemporaryDirectory(prefix="ulzoo-docs-")
NOT_PYTHON = shutil.ignore_patterns("__pycache__", "embedded", "weights", "*.tar", "*.json", "*.yaml")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
LIST_ITEM = re.compile(r"^([-*]|\d+\.) ")


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config: MkDocsConfig) -> None:
    """Copy the package in its installed layout, for mkdocstrings, which reads the sources and imports nothing."""
    package = Path(SOURCES.name) / "ulzoo"
    if package.exists():  # a second build by one process
        shutil.rmtree(package)
    shutil.copytree(ROOT / "ulzoo", package, ignore=NOT_PYTHON)
    for name in ("registry", "cli", "specs"):
        shutil.copytree(ROOT / name, package / name, ignore=NOT_PYTHON)
    shutil.move(package / "registry" / "interop", package / "interop")
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [SOURCES.name]


def on_files(files: Files, config: MkDocsConfig) -> None:
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        page = notebook.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, page, content=notebook_page(notebook)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    sources = {target: source for source, target in PAGES.items()}
    uri = page.file.src_uri
    source = sources.get(uri, f"docs/{uri}")

    def site_link(match: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(source), match[1]))
        target = PAGES.get(path) or path.removeprefix("docs/")
        if target == path and (ROOT / path).is_file():  # outside docs/
            target = f"repository/{path}" + (".txt" if path.endswith(".md") else "")
            if target not in files.src_uris:
                files.append(File.generated(config, target, content=(ROOT / path).read_bytes()))
        if target.endswith(".ipynb"):
            target = target.removesuffix(".ipynb") + ".md"
        return os.path.relpath(target, os.path.dirname(uri) or ".") + (match[2] or "")

    return separate_lists(LINK.sub(site_link, markdown))


def separate_lists(markdown: str) -> str:
    """Markdown with an empty line before each list, which Python's Markdown needs and GitHub's does not."""
    lines: list[str] = []
    code = False
    for line in markdown.split("\n"):
        code ^= line.startswith("```")
        previous = lines[-1] if lines else ""
        if not code and LIST_ITEM.match(line) and previous and not re.match(r"([-*]|\d+\.|\s) ?", previous):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its text, code, printed output and pictures."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [output_markdown(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts) + "\n"


def output_markdown(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if picture := data.get("image/png"):
        content = base64.b64encode(base64.b64decode("".join(picture))).decode()
        return f"![output](data:image/png;base64,{content})"
    return "```text\n" + "".join(output.get("text", data.get("text/plain", ""))).rstrip() + "\n```"
