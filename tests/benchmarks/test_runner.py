"""`python -m benchmarks`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as runner

ROOT = Path(__file__).parents[2]

FAKE = '''"""A benchmark that writes its options."""
import argparse
import json
from pathlib import Path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    print("printed on the way")
    (options.out / "fake.json").write_text(json.dumps({"device": options.device}))
    return 1
'''


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fake benchmark."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr("benchmarks.__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "benchmarks.fake", raising=False)
    return "fake"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
    return runner.main()


def test_it_lists_every_benchmark_with_a_line() -> None:
    listed = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert {"blocks", "costs", "gpu", "peak", "claims", "processes"} <= set(lines)
    assert "measuring" not in lines and "rivals" not in lines
    assert all(line.endswith(".") for line in lines.values())


def test_listing_imports_no_benchmark_and_no_torch() -> None:
    code = "import sys; sys.argv = ['benchmarks']; from benchmarks import __main__; __main__.main(); "
    code += "print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


def test_json_alone_goes_to_standard_output(
    fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, fake, "--json", "--device", "cpu", "--out", str(tmp_path)) == 1
    output = capsys.readouterr()
    assert json.loads(output.out) == {"device": "cpu"}
    assert output.err == "printed on the way\n"


def test_without_json_it_prints_what_the_benchmark_prints(
    fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, fake, "--out", str(tmp_path)) == 1
    assert capsys.readouterr().out == "printed on the way\n"


def test_an_option_that_a_benchmark_lacks_is_status_2(fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, fake, "--loss-factors", "1") == 2


def test_an_unknown_name_is_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "blokcs") == 2
    assert "unknown benchmark 'blokcs'" in capsys.readouterr().err
