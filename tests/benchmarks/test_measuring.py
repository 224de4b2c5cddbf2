"""Measurements and results that the benchmarks share."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import measuring
from benchmarks.measuring import Spread, by_turns, machine, publish, ratio

CPU = torch.device("cpu")


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_ratio_is_taken_round_by_round() -> None:
    """Rounds in which all sides are slower by the same factor change nothing."""
    slow = [1.0, 5.0, 2.0, 9.0]
    spread = ratio([3 * s for s in slow], [2 * s for s in slow])
    assert (spread.low, spread.median, spread.high) == pytest.approx((1.5, 1.5, 1.5))


def test_sides_take_turns_and_each_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(measuring, "timed", lambda work, device: (work(), 1.0)[1])
    seconds = by_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, rounds=3, warm=1)
    assert "".join(calls[4:]) == "ab" + "ba" + "ab"  # after one call of each to warm up and one to time it
    assert seconds == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_quick_sides_are_called_often_and_the_mean_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def timed(work, device):  # type: ignore[no-untyped-def]
        before = clock[0]
        work()
        return clock[0] - before

    def work() -> None:
        clock[0] += 0.01

    monkeypatch.setattr(measuring, "timed", timed)
    (seconds,) = by_turns({"a": work}, CPU, rounds=1, warm=0, least=0.1).values()
    assert clock[0] == pytest.approx(0.01 + 0.1)  # once to time it, then ten times
    assert seconds == pytest.approx([0.01])


def test_machine_describes_what_determines_speed() -> None:
    description = machine(CPU)
    assert description["device"] == "cpu" and description["torch"] == torch.__version__
    assert description["threads"] == torch.get_num_threads() and description["cores"] >= 1 and description["processor"]


def test_published_results_have_date_and_machine(tmp_path: Path) -> None:
    path = publish("quick", {"ratio": Spread(1 / 3, 0.25, 0.5, 7)}, CPU, tmp_path / "new")
    content = json.loads(path.read_text())
    assert path == tmp_path / "new" / "quick.json"
    assert content["ratio"] == {"median": 0.3333, "low": 0.25, "high": 0.5, "count": 7}
    assert len(content["date"]) == 10 and content["machine"]["torch"] == torch.__version__
