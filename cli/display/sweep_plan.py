"""`ulzoo sweep --dry-run`: the points of a sweep with their cost, and the estimated time."""

from collections.abc import Sequence

from rich.console import Console

from ulzoo.cli.display.tables import plain_table
from ulzoo.cli.display.terminal import duration, say, scaled
from ulzoo.registry.spec.sweep import Sweep, point_word
from ulzoo.registry.sweeps.estimate import estimate
from ulzoo.registry.sweeps.jobs import Job, flops_to_train
from ulzoo.registry.sweeps.store import Store


def print_plan(
    console: Console, sweep: Sweep, jobs: Sequence[Job], missing: Sequence[Job], store: Store, devices: Sequence[str]
) -> None:
    """Print all jobs of a sweep, which of them are `missing` in the store, and the time that these take."""
    console.print(f"{sweep.name} in {store.folder}", style="bold", soft_wrap=True)
    status = {row["spec_hash"]: row["status"] for row in store.rows()}
    missing_hashes = {job.spec_hash for job in missing}
    stages = list(dict.fromkeys(stage for job in jobs for stage in job.stages))
    heads = [f"{stage}\nimages" for stage in stages]
    table = plain_table("point", "set", "seed", "parameters", *heads, "training\nFLOPs", "state", left=("set", "state"))
    for job in jobs:
        state = status.get(job.spec_hash, "")
        if job.spec_hash in missing_hashes:
            state = "to run again" if state else "to run"
        table.add_row(
            job.point,
            " ".join(f"{key.rpartition('.')[2]}={point_word(value, key)}" for key, value in job.set.items()),
            str(job.seed),
            scaled(sum(job.cost.parameters.values())),
            *(f"{job.cost.training_images.get(stage, 0):,}" for stage in stages),
            scaled(job.cost.flops),
            state,
        )
    console.print(table)
    console.print()
    flops = flops_to_train(missing).total()
    console.print(f"{len(missing)} of {len(jobs)} points to run, {scaled(flops, 'FLOPs')}")
    _print_time(console, missing, store, devices)
    console.print("nothing was written")


def _print_time(console: Console, missing: Sequence[Job], store: Store, devices: Sequence[str]) -> None:
    if not missing:
        return
    try:
        estimated = estimate(missing, store.rows(), len(devices), devices[0])
    except ValueError as error:
        say(f"warning: no estimate of the time: {error}")
        return
    if estimated is None:
        console.print("no estimate of the time: these networks are too large for trial steps on this device")
        return
    parallel = f", {len(devices)} at a time" if len(devices) > 1 else ""
    console.print(f"about {duration(estimated.seconds)} on {devices[0]}{parallel}, {estimated.source}", soft_wrap=True)
