"""`ulzoo find --pilot`: its cost before it starts, its runs, and what it ends with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ulzoo.cli.display.tables import plain_table
from ulzoo.cli.display.terminal import duration, examples, say, scaled
from ulzoo.registry.sweeps.estimate import estimate
from ulzoo.registry.sweeps.extrapolation import Proposal, ShortRun
from ulzoo.registry.sweeps.jobs import Job, flops_to_train
from ulzoo.registry.sweeps.pilot import SWEEP_POINTS, Pilot
from ulzoo.registry.sweeps.store import Store


def describe_cost(pilot: Pilot) -> str:
    """One line: runs, images and FLOPs of the pilot, and its share of a full sweep."""
    count, plural = sum(rung.runs for rung in pilot.rungs), examples(pilot.summary.resolution)
    return (
        f"pilot of {pilot.spec.name}: {count} runs of stage 1, {pilot.images:,} {plural}, "
        f"{scaled(pilot.flops, 'FLOPs')} of training: {pilot.share:.1%} of {SWEEP_POINTS} full ones"
    )


def print_plan(
    console: Console, pilot: Pilot, jobs: Sequence[Job], missing: Sequence[Job], store: Store, devices: Sequence[str]
) -> None:
    """Print the rungs of a pilot, its cost, and the time that it takes from here."""
    console.print(describe_cost(pilot), soft_wrap=True)
    table = plain_table("rung", "runs", "steps", "batch", "images\nof each", "of a full\ntraining", "FLOPs")
    for number, rung in enumerate(pilot.rungs, 1):
        numbers = [number, rung.runs, rung.steps, rung.batch_size, rung.images]
        share, flops = rung.images / pilot.full_images, scaled(rung.runs * rung.flops)
        table.add_row(*(f"{value:,}" for value in numbers), f"{share:.1%}", flops)
    console.print(table)
    console.print()
    if missing:
        finished = sum(job.cost.flops for job in jobs) - sum(job.cost.flops for job in missing)
        estimated = estimate(missing, store.rows(), len(devices), devices[0])
        if estimated is None:
            console.print("no estimate of the time: these networks are too large for trial steps on this device")
        else:
            seconds = estimated.seconds * (pilot.flops - finished) / flops_to_train(missing).total()
            console.print(f"about {duration(seconds)} on {devices[0]}, {estimated.source}", soft_wrap=True)
    console.print("nothing was written")


def print_proposal(console: Console, pilot: Pilot, runs: Sequence[ShortRun], proposal: Proposal, spec: Path) -> None:
    """Print the runs of a pilot, the proposed settings, the expected rate, and the command to train them."""
    table = plain_table("images", "bias", "loss factor", "rate\nbits/pixel", "PSNR\ndB")
    for run in runs:
        table.add_row(
            f"{run.images:,}", f"{run.bias:g}", f"{run.loss_factor:g}", f"{run.bits:.4f}", f"{run.psnr_db:.2f}"
        )
    console.print()
    console.print(table)
    console.print()
    console.print(f"loss factor {proposal.loss_factor:g}, bias {proposal.bias:g}", style="bold")
    console.print(
        f"expected after the full {pilot.full.steps:,} steps: {proposal.bits:.3g} bits/pixel, "
        f"{proposal.low:.3g} to {proposal.high:.3g}",
        soft_wrap=True,
    )
    for caution in cautions(pilot, proposal):
        say(f"caution: {caution}")
    console.print(f"next  ulzoo train {spec}", soft_wrap=True, markup=False)


def cautions(pilot: Pilot, proposal: Proposal) -> list[str]:
    """What makes a proposal a guess."""
    lines = []
    if proposal.rising:
        lines.append(
            "the rate still rises with the length of the runs, which is not continued: they are too short to tell; "
            "give a larger --share or fewer biases"
        )
    if not proposal.reached:
        lines.append(
            f"{pilot.options.bits:g} bits/pixel is beyond what the runs can tell; start nearer to it: "
            f"--set decoder.weighting.loss_factor={proposal.loss_factor:g}"
        )
    return lines


def proposal_to_dict(pilot: Pilot, runs: Sequence[ShortRun], proposal: Proposal, spec: Path) -> dict[str, Any]:
    """The end of a pilot as `--json` prints it."""
    return {
        "target": pilot.options.bits,
        "spec": str(spec),
        "expected": vars(proposal),
        "cautions": cautions(pilot, proposal),
        "training_images": pilot.images,
        "training_flops": pilot.flops,
        "share_of_sweep": pilot.share,
        "runs": [vars(run) for run in runs],
    }
