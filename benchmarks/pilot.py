"""`ulzoo find --pilot` on the demo: the rate of the full training that it proposes, against the target.

    python -m benchmarks pilot [--bits 0.5] [--device cpu] [--threads 1] [--out benchmarks/results]

Runs the pilot of emoji32_tiny, trains the full stage 1 of the spec that it writes, and measures its rate on the
validation images. Exit status 1 if the rate is more than 10 % from the target or the pilot trains more than a fifth of
five full trainings. Processor seconds count evaluations too, which are as long after a short run as after a full one.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import parser, prepare, publish
from ulzoo.registry import load_spec
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.registry.sweeps.jobs import unsettled_jobs
from ulzoo.registry.sweeps.pilot import SWEEP_POINTS, Pilot, PilotOptions
from ulzoo.registry.sweeps.point import run_point
from ulzoo.registry.sweeps.store import Store

SPEC, MAX_ERROR, MAX_SHARE = "emoji32_tiny", 0.1, 0.2


def run_pilot(pilot: Pilot, store: Store) -> dict[str, Any]:
    """Train all runs of a pilot; the proposal and the runs, with processor seconds."""
    started = time.process_time()
    while missing := unsettled_jobs((jobs := pilot.plan(store)[1]), store.rows()):
        for job in missing:
            row = run_point(job)
            print(job.point, row["error"] or row["figures"]["bits_per_pixel"], flush=True)
    seconds, runs = time.process_time() - started, pilot.finished_runs(jobs, store.rows())
    proposal = pilot.conclude(runs)
    pilot.write_spec(store.folder / "found.yaml", proposal)
    return {"runs": [vars(run) for run in runs], "proposal": vars(proposal), "pilot_processor_seconds": seconds}


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--bits", type=float, default=0.5)
    options = arguments.parse_args()
    device = prepare(options)
    pilot = Pilot(SPEC, PilotOptions(bits=options.bits))
    with tempfile.TemporaryDirectory() as folder:
        content = {"spec": SPEC, "target": options.bits, **run_pilot(pilot, Store(Path(folder) / "pilot"))}
        print(content["proposal"], flush=True)
        started = time.process_time()
        spec = load_spec(Path(folder) / "pilot" / "found.yaml")
        result = train(spec, Path(folder) / "full", RunOptions(stage="latents", device=device))
        assert result is not None
        content["full_processor_seconds"] = time.process_time() - started
    measured = {key: result.results["figures"][key] for key in ("bits_per_pixel", "bits_per_pixel_se", "psnr_db")}
    content |= {"share_of_sweep": pilot.share, "sweep_points": SWEEP_POINTS, "measured": measured}
    content["error"] = measured["bits_per_pixel"] / options.bits - 1
    publish("pilot", content, device, options.out)
    print(f"target {options.bits:g}, measured {measured['bits_per_pixel']:.4f}: {content['error']:+.1%}")
    return int(abs(content["error"]) > MAX_ERROR or pilot.share > MAX_SHARE)


if __name__ == "__main__":
    raise SystemExit(main())
