"""Every command prints on terminals and into files of any encoding, file names included."""

import io
import json
import sys
from pathlib import Path

import pytest

from ulzoo.cli import main

NAME = "ü→λ\udce9"  # not in cp1252, and a byte that is not UTF-8
PRINTING = {
    "--help": "Unified Latents",
    "sweep --help": "Examples",
    "list emoji32*": "emoji32_tiny",
    "show emoji32_tiny": "32{x}32",
    "show emoji32_tiny --json": "",
    "show --diff emoji32_tiny emoji64_small": "",
    "show paper/table2_loss_factor": "1.9",
    "schema": "",
    "train emoji32_tiny --dry-run": "32{x}32",
    "sweep {spec} --loss-factor 1.5,2 --dry-run": "loss_factor",
    "evaluate {run} --limit 4": "PSNR",
    "evaluate {run} --limit 4 --json": "",
    "sample {run} --n 2 --out {name}.png": "{printed}.png",
    "reconstruct {run} --n 2 --out {name}.png": "{printed}.png",
    "encode {run} --out {name} --split val": "{printed}:",
    "export {run} --out {name}.safetensors": "{printed}.safetensors",
    "train {spec} --out {name}-run": "PSNR",
}
REFUSED = ("evaluate {name}", "train {name}.yaml", "show emoji32_tiny --set a={name}")
PRINTED = {"ascii": r"\u00fc->lambda\udce9", "cp1252": r"ü->lambda\udce9", "utf-8": r"ü→λ\udce9"}


def run(arguments: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[object, str, str]:
    """The exit status of a command, and what it prints to stdout and stderr in an encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        patch.setattr(sys, "argv", ["ulzoo", *arguments.split()])
        patch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ended:
            main()
    for stream in streams:
        stream.flush()
    output, errors = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    return ended.value.code, output, errors


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("cp1252", "utf-8")]


@pytest.mark.parametrize("encoding", ["ascii", *SLOW])
def test_every_command_prints(trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    words = {"run": trained / "run", "spec": trained / "tiny.yaml", "name": NAME, "printed": PRINTED[encoding]}
    brief = ("schema", "show emoji32_tiny", "sample {run} --n 2 --out {name}.png")
    for command, expected in PRINTING.items():
        if encoding != "ascii" and command not in brief:
            continue
        status, output, errors = run(command.format(**words), encoding, monkeypatch)
        assert not status, (command, errors)
        assert expected.format(**words, x="x" if encoding == "ascii" else "×") in output + errors, command
        if "--json" in command or command == "schema":
            json.loads(output)
    for command in REFUSED:
        status, _, errors = run(command.format(**words), encoding, monkeypatch)
        assert status == 2 and PRINTED[encoding] in errors, (command, errors)
