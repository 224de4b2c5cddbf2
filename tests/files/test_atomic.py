"""Atomic writes: either the old content or the new one."""

import os
import signal
from pathlib import Path

import pytest

from ulzoo.files.atomic import remove_unfinished, write_atomically, write_text


def test_writes_and_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    write_text(path, "old")
    write_text(path, "nëw")
    assert path.read_text("utf-8") == "nëw"
    assert os.listdir(path.parent) == ["x.txt"]


def test_a_failing_writer_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_permissions_follow_the_umask_for_any_writer(tmp_path):
    path = tmp_path / "x"
    old = os.umask(0o027)
    try:
        write_atomically(path, lambda temporary: (temporary.touch(), temporary.chmod(0o600)))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def killed_while_writing(path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        temporary.with_name("a temporary file of the library").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        write_atomically(path, write)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_kill_leaves_the_old_content_and_the_next_write_cleans_up(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    killed_while_writing(path)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == [".x.txt.tmp", "x.txt"]
    write_text(path, "new")
    assert os.listdir(tmp_path) == ["x.txt"]


def test_unfinished_writes_are_removed_by_name(tmp_path):
    for name in ("x-1.bin", "y.bin"):
        killed_while_writing(tmp_path / name)
    (tmp_path / "x-2.bin").touch()
    remove_unfinished(tmp_path, r"x-\d\.bin")
    assert sorted(os.listdir(tmp_path)) == [".y.bin.tmp", "x-2.bin"]
