"""A point on several processes: messages, results, errors and deaths, and that none is left behind."""

import importlib
import multiprocessing
import os
import re
import signal
import threading
import time
from itertools import count

import pytest

from ulzoo.registry.sweeps import ranks
from ulzoo.registry.sweeps.ranks import RankFailed, RankKilled, run_ranks

NUMBERS = count()
WORK = """
import os, signal, time

def work(processes, send):
    rank, count = processes.rank, processes.world_size
    send((rank, sum(processes.all_gather(rank + 1))))
    BODY
    processes.all_gather(rank)
    return rank, count
"""


@pytest.fixture
def work(forkserver, monkeypatch, tmp_path):
    """work(body): the function, in a module that the processes can import. They start in milliseconds."""
    monkeypatch.setattr(ranks, "_SPAWN", forkserver)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(multiprocessing.active_children())

    def work(body="pass"):
        name = f"work_of_ranks_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(WORK.replace("BODY", body))
        return importlib.import_module(name).work

    yield work
    assert set(multiprocessing.active_children()) == before


def test_messages_and_the_result_of_the_main_process(work):
    received: list = []
    assert run_ranks(work(), (), ["cpu"] * 2, on_message=received.append) == (0, 2)
    assert sorted(received) == [(0, 3), (1, 3)]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("if rank == 1: raise ValueError('no such\\nthing')", "process 1 of 2: no such thing"),
        ("raise RuntimeError('the same')", "RuntimeError: the same"),
        ("if rank == 1: raise SystemExit(2)", r"its processes ended with exit statuses \[.*2.*\]|RuntimeError: .*"),
    ],
)
def test_an_error_of_a_process_is_one_line(work, body, line):
    with pytest.raises(RankFailed) as caught:
        run_ranks(work(body), (), ["cpu"] * 2)
    assert re.fullmatch(line, str(caught.value))
    if "raise ValueError" in body:
        assert "Traceback" in caught.value.__notes__[0] and "no such\nthing" in caught.value.__notes__[0]


def test_a_process_that_is_killed_is_no_failure(work):
    with pytest.raises(RankKilled) as caught:
        run_ranks(work("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)"), (), ["cpu"] * 2)
    assert caught.value.number == signal.SIGKILL


def test_a_killed_process_is_the_cause_of_an_error_that_is_received_before(work):
    body = "if rank == 0: raise RuntimeError('connection closed by peer')\n    "
    with pytest.raises(RankKilled) as caught:
        run_ranks(work(body + "time.sleep(0.5)\n    os.kill(os.getpid(), signal.SIGKILL)"), (), ["cpu"] * 2)
    assert caught.value.number == signal.SIGKILL


def test_a_signal_to_this_process_stops_all(work):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_ranks(work("time.sleep(60)"), (), ["cpu"] * 2)
    assert time.monotonic() - started < 30


def test_an_error_of_the_receiver_ends_all(work):
    with pytest.raises(ZeroDivisionError):
        run_ranks(work("time.sleep(60)"), (), ["cpu"] * 2, on_message=lambda _: 1 / 0)
