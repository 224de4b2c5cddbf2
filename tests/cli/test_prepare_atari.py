"""`ulzoo prepare atari`: shards of rollouts, their verification, and mistakes."""

import pytest

pytest.importorskip("ale_py")
ATARI = ("prepare", "atari", "out", "--resolution", "16", "--games", "pong", "--count", "3", "--workers", "1")


def test_render_and_verify(ulzoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ulzoo(*ATARI)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("out: 3 images of train in 1 shards, ")
    assert ulzoo(*ATARI, "--verify").stdout == "out: matches its manifest, 3 images of train\n"
    assert ulzoo(*ATARI, "--split", "val", "--frames", "8").stderr.startswith("error: out: train was prepared with ")


def test_a_mistake_is_one_line_and_writes_nothing(ulzoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ulzoo(*ATARI, "--games", "pong,pong")
    assert (result.exit_code, result.stdout) == (2, "") and not (tmp_path / "out").exists()
    assert result.stderr == "error: games must be one or more different names, not ['pong', 'pong']\n"
