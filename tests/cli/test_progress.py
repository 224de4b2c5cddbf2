import io

import pytest
from rich.console import Console

from ulzoo.cli.display.train_progress import display
from ulzoo.registry.runs.callbacks import format_row
from ulzoo.training.config import StageConfig

CONFIG = StageConfig(steps=100, batch_size=4, lr=1e-3, log_every=1)
ROW = {"images_per_second": 12.0, "rate_bits_per_pixel": 0.5, "distortion": 1.5, "loss": 2.0, "data_wait": 0.02}


def shown(terminal: bool, start: int = 0) -> str:
    out = io.StringIO()
    with display(Console(file=out, force_terminal=terminal, width=100), ["the plan"]) as callback:
        callback.on_stage("latents", CONFIG, start)
        for step in range(start + 1, CONFIG.steps + 1):
            callback.on_step(step, ROW)
        callback.on_note("evaluating")
    return out.getvalue()


@pytest.mark.parametrize("start", [0, 37])
def test_lines(start):
    heading, *lines, last = shown(False, start).splitlines()
    assert (heading, last) == ("the plan", "evaluating")
    assert 10 <= len(lines) <= 21
    assert lines[-1].startswith(
        "latents 100/100  12.0 images/s  rate 0.5000 bits/pixel  distortion 1.5000  data wait 2%"
    )


def test_a_line_is_due_whatever_the_log_interval(monkeypatch):
    seconds = iter(range(0, 1000, 3))
    monkeypatch.setattr("ulzoo.cli.display.train_progress.time.monotonic", lambda: float(next(seconds)))
    out = io.StringIO()
    with display(Console(file=out, width=100), []) as callback:
        callback.on_stage("latents", CONFIG.model_copy(update={"log_every": 1000}), 0)
        for step in range(1, 31):
            callback.on_step(step, None)
    lines = out.getvalue().splitlines()
    assert 3 <= len(lines) <= 8
    assert all(line.startswith("latents ") and line.endswith(" left") for line in lines)


def test_a_long_check_is_announced(monkeypatch):
    monkeypatch.setattr("ulzoo.cli.display.train_progress.SECONDS_OF_SILENCE", 0.01)
    out = io.StringIO()
    with display(Console(file=out, width=100), ["the plan"]) as callback:
        callback.waiting.join()
        callback.on_stage("latents", CONFIG, 0)
    assert out.getvalue().splitlines() == ["checking the data", "the plan"]


def test_the_utilisation_of_stages_with_a_known_one_is_printed():
    row = ROW | {"stage": "base"}
    assert format_row(row, "images", {"base": 0.03}).endswith("data wait 2%  MFU 36%")
    assert format_row(row, "images", {"latents": 0.03}).endswith("data wait 2%")


def test_a_finished_bar_stays_visible():
    text = shown(True)
    assert "the plan" in text and "100/100" in text and "rate 0.5000 bits/pixel" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_an_interrupted_display_restores_the_terminal():
    out = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        display(Console(file=out, force_terminal=True, width=100), ["the plan"]) as callback,
    ):
        callback.on_stage("latents", CONFIG, 0)
        raise KeyboardInterrupt
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_a_long_evaluation_prints_its_progress(monkeypatch):
    seconds = iter(range(0, 1000, 15))
    monkeypatch.setattr("ulzoo.cli.display.train_progress.time.monotonic", lambda: float(next(seconds)))
    out = io.StringIO()
    with display(Console(file=out, width=100), []) as callback:
        callback.on_note("evaluating")
        for done in range(64, 513, 64):
            callback.on_evaluation(done, 512)
    first, *lines = out.getvalue().splitlines()
    assert first == "evaluating" and 2 <= len(lines) <= 7
    assert all("/512 images  " in line and line.endswith(" left") for line in lines)


def test_an_evaluation_moves_the_spinner():
    out = io.StringIO()
    with display(Console(file=out, force_terminal=True, width=100), []) as callback:
        callback.on_note("evaluating")
        callback.on_evaluation(64, 512)
        assert "64/512" in str(callback.status.status)
