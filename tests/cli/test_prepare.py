"""`ulzoo prepare kinetics600`: shards of a folder of videos, mistakes and interruptions."""

import json
import signal
from pathlib import Path

import pytest

PREPARE = ("prepare", "kinetics600")
SMALL = ("--resolution", "32", "--clips-per-shard", "4")


@pytest.fixture
def kinetics(tmp_path, monkeypatch, kinetics_layout) -> Path:
    """The working directory, with videos/, train.csv and val.csv in it."""
    monkeypatch.chdir(tmp_path)
    kinetics_layout(tmp_path, "train", 12)
    kinetics_layout(tmp_path, "val", 3)
    return tmp_path


def on(split: str) -> tuple[str, ...]:
    return (*PREPARE, "--videos", "videos", "--annotations", f"{split}.csv", "--split", split, "--out", "out")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_prepare_verify_and_again(ulzoo, kinetics):
    for split, clips, shards in (("train", 12, 6), ("val", 3, 4)):
        result = ulzoo(*on(split), *SMALL, "--workers", 1)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.startswith(f"out: {clips} clips of {split} in {shards} shards, ")
        *progress, warning = result.stderr.splitlines()
        assert progress[-1].startswith(f"{clips + 10}/{clips + 10} clips ") and "10 skipped" in progress[-1]
        assert len(progress) <= 21
        assert warning.startswith("warning: 10 clips skipped, all listed in out/manifest.json: ")
    before = files(kinetics / "out")
    assert ulzoo(*on("train"), *SMALL).exit_code == 0
    assert files(kinetics / "out") == before
    result = ulzoo(*PREPARE, "--out", "out", "--verify")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "out: matches its manifest, 12 clips of train, 3 clips of val\n"
    (kinetics / "spec.yaml").write_text(
        "extends: kinetics600_small\ndata: {root: out, num_classes: 9, resolution: 32}\n"
    )
    from ulzoo.registry import load_spec
    from ulzoo.registry.compile import open_source

    assert len(open_source(load_spec(kinetics / "spec.yaml"), "val")) == 3


MISTAKES = {
    "nothing": ((*PREPARE, "--out", "out"), "--videos and --annotations missing: `ulzoo prepare kinetics600 --help`"),
    "no annotations": ((*PREPARE, "--videos", "videos", "--out", "out"), "--annotations missing"),
    "the other split's table": ((*on("train"), "--annotations", "val.csv"), "val.csv: has no rows of the split train"),
    "no such folder": ((*on("train"), "--videos", "vids"), "vids: no such folder"),
    "no such table": ((*on("train"), "--annotations", "tarin.csv"), "tarin.csv: no such file"),
    "not a table": ((*on("train"), "--annotations", "videos/val-damaged_000005_000015.mp4"), "no column label"),
    "wrong split": ((*on("train"), "--split", "val"), "has no rows of the split val, only of train"),
    "odd resolution": ((*on("train"), "--resolution", "63"), "resolution must be an even number of at least 16"),
    "frame rate": ((*on("train"), "--frame-rate", "0"), "frame_rate must be above 0"),
    "verify nothing": ((*PREPARE, "--out", "out", "--verify"), "out: no manifest.json in it"),
    "verify and more": ((*on("train"), "--verify"), "--verify reads --out alone"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(ulzoo, kinetics, case):
    arguments, words = MISTAKES[case]
    result = ulzoo(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr and result.stdout == ""
    assert not (kinetics / "out").exists()


@pytest.mark.parametrize(
    "arguments", [("--workers", "0"), ("--clips-per-shard", "0"), ("--split", "test"), ("--frame-rate", "x"), ("-x",)]
)
def test_wrong_flags(ulzoo, kinetics, arguments):
    result = ulzoo(*on("train"), *arguments)
    assert result.exit_code == 2 and arguments[0] in result.stderr
    assert not (kinetics / "out").exists()


def test_changed_settings_and_damaged_shards(ulzoo, kinetics):
    assert ulzoo(*on("val"), *SMALL, "--workers", 1).exit_code == 0
    result = ulzoo(*on("val"), "--resolution", 64, "--clips-per-shard", 4)
    assert result.exit_code == 2
    assert "out: val was prepared with other settings: resolution was 32, now 64; choose another --out" in result.stderr
    shard = kinetics / "out" / "val-00000.tar"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    result = ulzoo(*PREPARE, "--out", "out", "--verify")
    assert result.exit_code == 2 and "val-00000.tar has SHA-256" in result.stderr


def test_help_lists_the_commands(ulzoo, here):
    assert "kinetics600" in ulzoo("prepare", "--help").stdout
    result = ulzoo("prepare", "kinetics60")
    assert result.exit_code == 2 and "kinetics600" in result.stderr


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_bytes(ulzoo, kinetics, kinetics_layout, prepare_until_stopped):
    kinetics_layout(kinetics, "train", 120)  # many shards: both attempts must be stopped before the last
    assert ulzoo(*on("train"), *SMALL, "--workers", 1, "--out", "whole").exit_code == 0
    for number, expected in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        status, stderr = prepare_until_stopped([*on("train"), *SMALL], number)
        assert status == expected, stderr
        assert not json.loads(Path("out/manifest.json").read_text())["splits"]["train"]["complete"]
        if number == signal.SIGINT:
            assert stderr.endswith(
                "interrupted; run the same command again to continue after the last finished shard\n"
            )
            assert not list(Path("out").glob(".*.tmp"))
    result = ulzoo(*on("train"), *SMALL, "--workers", 1)
    assert result.exit_code == 0, result.stderr
    assert files(Path("out")) == files(Path("whole"))
