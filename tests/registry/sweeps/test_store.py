"""The results of a sweep: which rows count, incomplete lines, concurrent processes, many rows, sweep.yaml."""

import json
import multiprocessing
import time
import warnings

import pytest

from ulzoo.registry.spec.sweep import load_sweep
from ulzoo.registry.sweeps.store import Store


def row(hash: str, status: str = "done", **more) -> dict:
    return {"point": hash, "spec_hash": hash, "status": status, "figures": {}, "set": {}, "stages": ["latents"], **more}


def append_many(folder, name: str) -> None:
    store = Store(folder)
    for i in range(50):
        store.append(row(f"{name}{i}", padding="x" * 5000))


def test_the_row_that_counts(tmp_path):
    store = Store(tmp_path / "a" / "sweep")
    assert store.rows() == [] and store.damaged == [] and not store.folder.exists()
    entries = [
        row("a", "failed", error="1"),
        row("b", seconds=1),
        row("a", "failed", error="2"),
        row("b", seconds=2),
        row("c"),
        row("c", "failed"),
        row("d", stages=["latents", "base"]),
        row("d"),
    ]
    for entry in entries:
        store.append(entry)
    assert store.rows() == [entries[2], entries[3], entries[4], entries[6]]
    assert [json.loads(line) for line in store.path.read_text().splitlines()] == entries


def test_an_incomplete_line_is_skipped_and_the_next_row_starts_on_a_new_line(tmp_path):
    store = Store(tmp_path)
    store.append(row("a"))
    content = store.path.read_bytes()
    for cut in (1, 10, len(content) - 1):  # the last is a complete row without a line break
        store.path.write_bytes(content + content.replace(b'"a"', b'"b"')[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            names = [row["point"] for row in store.rows()]
        assert names == ["a", "b"][: 1 + (cut == len(content) - 1)]
        if len(names) == 1 and cut == 1:
            assert [str(warning.message) for warning in caught] == [
                f"{store.path}:2: not a complete row of results; skipped"
            ]
        assert store.damaged == [2][: 2 - len(names)]
        store.append(row("c"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert [row["point"] for row in store.rows()] == [*names, "c"]


@pytest.mark.filterwarnings("ignore:.*not a complete row")
def test_lines_that_are_not_rows(tmp_path):
    store = Store(tmp_path)
    good = json.dumps(row("a"))
    lines = ["", "[1]", '{"point": "x"}', good, "\x00\x00", json.dumps(row("b", figures=None)), "{", good]
    store.path.write_text("\n".join(lines))
    assert len(store.rows()) == 1
    assert store.damaged == [1, 2, 3, 5, 6, 7]


def test_concurrent_processes_lose_no_rows(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_many, args=(tmp_path, name)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    store = Store(tmp_path)
    assert len(store.rows()) == 200 and store.damaged == []


def test_many_rows_are_read_quickly(tmp_path):
    store = Store(tmp_path)
    lines = (json.dumps(row(f"{i}", figures={f"figure{n}": n / 7 for n in range(20)})) for i in range(10_000))
    store.path.write_text("".join(f"{line}\n" for line in lines))
    started = time.perf_counter()
    assert len(store.rows()) == 10_000
    assert time.perf_counter() - started < 2


def test_paths_that_are_not_stores(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: is a file, not the folder of a sweep"):
        Store(tmp_path / "file")
    with pytest.raises(ValueError, match=r"has no results\.jsonl; run `ulzoo sweep` to create one"):
        Store(tmp_path, must_exist=True)
    with pytest.raises(ValueError, match="no such folder"):
        Store(tmp_path / "nowhere", must_exist=True)


def test_a_row_with_a_value_that_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).append(row("a", figures={"psnr_db": float("nan")}))
    assert Store(tmp_path).rows() == []


def test_the_sweep_finds_its_specs_from_the_folder(tmp_path, monkeypatch):
    """A path relative to the sweep's file stays valid in the store; a packaged name stays a name."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "own.yaml").write_text("extends: emoji32_tiny\nname: own\n")
    (tmp_path / "specs" / "other.yaml").write_text("extends: own.yaml\nname: other\n")
    (tmp_path / "specs" / "sweep.yaml").write_text(
        "name: mine\nspec: own.yaml\ncolumns: [psnr_db]\ngrid: {latent.channels: [2, 4]}\n"
        "points: {a: {spec: other.yaml, paper: {psnr_db: 3}}, b: {spec: emoji32_tiny}, removed: null}\n"
    )
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep("specs/sweep.yaml")
    store = Store("runs/mine")
    assert store.sweep is None
    store.write_sweep(sweep)
    monkeypatch.chdir(tmp_path / "specs")
    restored = Store("../runs/mine").sweep
    assert [(p.name, p.set, p.paper) for p in restored.list_points()] == [
        (p.name, p.set, p.paper) for p in sweep.list_points()
    ]
    names = [spec.name for _, spec in restored.resolve()]
    assert names == ["other", "emoji32_tiny", "own", "own"]
