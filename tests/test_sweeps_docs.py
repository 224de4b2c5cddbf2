"""docs/sweeps.md: the table of the pilot is the stored result of its benchmark, which meets its bar."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sweeps.md").read_text("utf-8")
RESULT = json.loads((ROOT / "benchmarks" / "results" / "pilot.json").read_text("utf-8"))


def test_the_table_of_the_pilot_is_the_benchmarks_result() -> None:
    table = PAGE.partition("| run | images |")[2]
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines() if "0." in line][:5]
    runs, proposal, measured = RESULT["runs"], RESULT["proposal"], RESULT["measured"]
    assert rows[:3] == [
        [f"{run['images']:,}", f"{run['loss_factor']:g}", f"{run['bits']:.3f}", f"{run['psnr_db']:.2f}"] for run in runs
    ]
    factor = f"{proposal['loss_factor']:g}"
    assert rows[3][1:3] == [factor, "{bits:.3f}, {low:.3f} to {high:.3f}".format(**proposal)]
    assert rows[4][1:] == [factor, f"{measured['bits_per_pixel']:.3f}", f"{measured['psnr_db']:.2f}"]


def test_the_pilot_meets_its_bar_and_its_interval_contains_the_measured_rate() -> None:
    sentence = f"misses by {RESULT['error']:.1%} at {RESULT['share_of_sweep']:.0%} of the training FLOPs".replace(
        "%", " %"
    )
    assert sentence in PAGE and abs(RESULT["error"]) <= 0.1 and RESULT["share_of_sweep"] <= 0.2
    assert RESULT["proposal"]["low"] < RESULT["measured"]["bits_per_pixel"] < RESULT["proposal"]["high"]
    seconds = re.search(r"(\d+) % \((\d+) s of 5 × (\d+) s\)", PAGE)
    assert seconds is not None
    pilot, full = RESULT["pilot_processor_seconds"], RESULT["full_processor_seconds"]
    assert list(map(int, seconds.groups())) == [round(20 * pilot / full), round(pilot), round(full)]
