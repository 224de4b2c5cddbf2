"""What must not change when the code base does: losses, weights, samples, figures, spec hashes, of two revisions.

    python -m benchmarks golden --base REVISION     # compare the working tree with a revision, on this machine
    python -m benchmarks golden --record FILE       # record the working tree alone

The recorder calls public names only, so the same file runs in both trees. Processors differ in the last bits, so
digests are compared between two runs on one machine; `tests/test_golden.py` holds losses to a tolerance.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SPECS = ("emoji32_tiny", "emoji_video64_tiny")
STEPS = 6
LOGGED = ("loss", "rate_bits_per_pixel", "distortion", "grad_norm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="git revision to compare with")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write this tree's values as JSON")
    parser.add_argument("--optimizer", help="train with this one instead of the specs' own")
    options = parser.parse_args()
    if options.record:
        options.record.write_text(json.dumps(record(options.optimizer), indent=1) + "\n", encoding="utf-8")
        return 0
    if not options.base:
        parser.error("give --base or --record")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(base), options.base], check=True)
        try:
            before, after = run_recorder(base, Path(folder) / "a"), run_recorder(ROOT, Path(folder) / "b")
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(base)], check=True)
    changed = differences(before, after)
    print("\n".join(changed) or f"{len(flatten(before))} values of {options.base} and of the working tree are equal")
    return 1 if changed else 0


def run_recorder(tree: Path, scratch: Path) -> dict[str, Any]:
    """Record a source tree, seen through links as it would be installed."""
    package = scratch / "ulzoo"
    package.mkdir(parents=True)
    for part in (*(tree / "ulzoo").iterdir(), tree / "registry", tree / "cli", tree / "specs"):
        (package / part.name).symlink_to(part)
    result = scratch / "golden.json"
    environment = {**os.environ, "PYTHONPATH": str(scratch), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, "--record", str(result)], check=True, cwd=scratch, env=environment)
    return json.loads(result.read_text(encoding="utf-8"))


def record(optimizer: str | None = None) -> dict[str, Any]:
    """The values of the `ulzoo` that is imported."""
    return {"hashes": spec_hashes(), **{name: record_training(name, optimizer) for name in SPECS}}


def record_training(name: str, optimizer: str | None = None) -> dict[str, Any]:
    """Losses of 6 + 6 steps of a packaged spec, digests of weights and samples after them, figures."""
    import torch

    import ulzoo

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            train(name, run, optimizer)
            log = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
            model = ulzoo.load(run)
            samples = model.sample(4, generator=torch.Generator().manual_seed(0))
            return {
                "log": [{key: row[key] for key in LOGGED if key in row} for row in log],
                "weights_sha256": digest(model.state_dict()),
                "samples_sha256": digest({"x": samples}),
                "samples_mean": samples.mean().item(),
                "samples_std": samples.std().item(),
                "spec_yaml_sha256": hashlib.sha256((run / "spec.yaml").read_bytes()).hexdigest(),
                "figures": json.loads((run / "figures.json").read_text("utf-8"))["figures"],
            }
    finally:
        torch.set_num_threads(threads)


def spec_hashes() -> dict[str, str]:
    """The hash of every packaged spec and of every point of every packaged sweep."""
    import ulzoo
    from ulzoo.registry import find_sweeps, load_sweep

    hashes = {name: ulzoo.load_spec(name).hash for name in ulzoo.list_models()}
    for sweep in find_sweeps():
        hashes |= {f"{sweep}:{point.name}": spec.hash for point, spec in load_sweep(sweep).resolve()}
    return hashes


def overrides(optimizer: str | None = None) -> list[str]:
    """The settings of 6 + 6 steps in fp32."""
    settings = [f"steps={STEPS}", "precision=fp32", "log_every=1", "warmup_steps=2"]
    if optimizer:
        settings += [f"optimizer={optimizer}", "lr=0.001"]
    keys = [f"train.{stage}.{setting}" for stage in ("latents", "base") for setting in settings]
    return [*keys, "train.latents.prior_warmup_steps=3"]


def train(name: str, run: Path, optimizer: str | None = None) -> None:
    """Train a packaged spec through the command line."""
    options = [word for key in overrides(optimizer) for word in ("--set", key)]
    command = [sys.executable, "-m", "ulzoo", "train", name, "--out", str(run), "--device", "cpu", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def digest(tensors: dict[str, Any]) -> str:
    """SHA-256 of names and bytes."""
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping, by dotted path."""
    if not isinstance(values, dict | list):
        return {path: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    return {key: value for name, item in items for key, value in flatten(item, f"{path}.{name}".strip(".")).items()}


def differences(before: Any, after: Any) -> list[str]:
    """A line for every value that is not equal to the last bit."""
    a, b = flatten(before), flatten(after)
    return [f"{path}: {a.get(path)} -> {b.get(path)}" for path in {**a, **b} if a.get(path) != b.get(path)]


if __name__ == "__main__":
    sys.exit(main())
