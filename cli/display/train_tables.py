"""`ulzoo train`: what a run will cost, before it, and its metrics and files, after it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ulzoo.cli.display.init_table import init_line
from ulzoo.cli.display.tables import metrics_table, pair_table, plain_table, print_cautions
from ulzoo.cli.display.terminal import duration, examples, gflops, scaled, shape, three_digits

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ulzoo.registry import Spec
    from ulzoo.registry.cost.accelerators import Machines
    from ulzoo.registry.cost.plan import Plan, StagePlan
    from ulzoo.registry.cost.summary import ModelSummary
    from ulzoo.registry.runs.train import RunResult
    from ulzoo.runtime.devices import Precision


def stage_line(stage: "StagePlan", kind: str) -> str:
    """One line about a stage of a run; `kind` is "images" or "clips"."""
    return (
        f"stage {stage.stage}: {stage.steps:,} steps × {stage.batch_size} = {stage.images:,} {kind}, "
        f"{scaled(stage.flops, 'FLOPs')}, {_precision(stage)}"
    )


def print_plan(console: "Console", spec: "Spec", plan: "Plan", device: str, processes: int) -> None:
    """Print the cost of a run by `processes` processes: networks, stages, memory, data, and what it is warned of."""
    from ulzoo.registry.cost.plan import count_images
    from ulzoo.registry.runs.cautions import warmup_cautions

    summary = plan.summary
    kind = examples(summary.resolution)
    by = f" by {processes} processes" if processes > 1 else ""
    try:
        images, data = count_images(spec), ""
    except ValueError as error:
        images, data = 0, f"data not available: {error}"
    console.print(f"{spec.name}, trained on {device}{by}", style="bold")
    console.print(f"{kind} {shape(summary.resolution)}, latents {shape(summary.latent)}")
    console.print(_networks(summary))
    console.print()
    console.print(_stages(plan, images, each="each" if by else ""))
    console.print()
    console.print(data or f"{images:,} training {kind} available")
    if spec.init:
        console.print(init_line(spec.init))
    for path, message in warmup_cautions(spec, [planned.stage for planned in plan.stages]):
        console.print(f"caution: {path}: {message}", soft_wrap=True)
    if machines := plan.stages[0].machines:
        console.print(_assumptions(machines, plan.stages[0].precision), style="dim", soft_wrap=True)
    console.print(f"{three_digits(plan.flops / 1e15)} PFLOPs in total; nothing was written")


def print_distillation(console: "Console", plan: "Plan", teaching: "Spec") -> None:
    """Print the cost of the stage distill, if it is planned, beside that of the training of the decoder."""
    from ulzoo.registry.zoo.distill import teaching_stage, training_flops

    stage = teaching_stage(teaching)
    for planned in plan.stages:
        if planned.stage == "distill" and getattr(teaching.train, stage):
            share = planned.flops / training_flops(teaching, stage)
            console.print(f"distill: {share:.1%} of the training FLOPs of stage {stage} of {teaching.name}")


def _networks(summary: "ModelSummary") -> "Table":
    table = plain_table("network", "parameters", f"forward GFLOPs/{examples(summary.resolution, plural=False)}")
    for name, parameters in summary.parameters.items():
        table.add_row(name, f"{parameters:,}", gflops(summary.flops[name]))
    table.add_section()
    table.add_row("all", f"{sum(summary.parameters.values()):,}", gflops(sum(summary.flops.values())), style="bold")
    return table


def _stages(plan: "Plan", images: int, each: str) -> "Table":
    kind, one = (examples(plan.summary.resolution, plural) for plural in (True, False))
    memory = scaled(plan.stages[0].device_memory, "B")
    table = plain_table("stage", *(stage.stage for stage in plan.stages))
    table.add_row("steps", *(f"{stage.steps:,}" for stage in plan.stages))
    table.add_row("batch size", *(f"{stage.batch_size:,}" for stage in plan.stages))
    table.add_row(kind, *(f"{stage.images:,}" for stage in plan.stages))
    if images:
        table.add_row("epochs", *(f"{stage.images / images:.1f}" for stage in plan.stages))
    table.add_row(f"training GFLOPs/{one}", *(gflops(stage.flops_per_image) for stage in plan.stages))
    table.add_row("training PFLOPs", *(three_digits(stage.flops / 1e15) for stage in plan.stages))
    table.add_row(
        f"memory of tensors{each and ', each'}, about", *(scaled(stage.memory_bytes, "B") for stage in plan.stages)
    )
    table.add_row(
        f"largest batch in {memory}{each and ' each'}, about", *(f"{stage.largest_batch:,}" for stage in plan.stages)
    )
    table.add_row("precision", *(_precision(stage) for stage in plan.stages))
    if plan.stages[0].processes > 1:
        steps = [(stage.collectives, stage.optimizer_collectives) for stage in plan.stages]
        table.add_row(
            "gathers + reductions per step",
            *(f"{sum(part.gathers for part in step):,} + {sum(part.reductions for part in step):,}" for step in steps),
        )
        table.add_row(
            "sent per step, each", *(scaled(round(sum(part.bytes_sent for part in step)), "B") for step in steps)
        )
    for name, cells in _times(plan.stages).items():
        table.add_row(name, *cells)
    return table


def _times(stages: "Sequence[StagePlan]") -> dict[str, list[str]]:
    """Rows of time and energy, if the run is planned for accelerators."""
    from ulzoo.registry.cost.step_time import kilowatt_hours, step_time

    rows: dict[str, list[str]] = {}
    for stage in stages:
        if machines := stage.machines:
            step = step_time(stage)
            seconds = stage.steps * step.total
            cells = {
                "time, about": duration(seconds),
                "in optimizer": f"{step.optimizer / step.total:.1%}",
                "in collectives": f"{step.exposed / step.total:.1%}",
                "energy, about": f"{three_digits(kilowatt_hours(seconds, machines))} kWh",
            }
            for name, cell in cells.items():
                rows.setdefault(name, []).append(cell)
    return rows


def _assumptions(machines: "Machines", precision: "Precision") -> str:
    """What times on accelerators assume."""
    from ulzoo.registry.cost.step_time import MFU

    accelerator = machines.accelerator
    peak = f"{accelerator.peak(precision) / 1e12:g} TFLOP/s in {precision}"
    return (
        f"Times assume {MFU:.0%} of the peak, {peak} (not measured; less in small models), and collectives behind the "
        f"backward pass. Energy is {accelerator.watts:g} W each, without hosts and cooling."
    )


def _precision(stage: "StagePlan") -> str:
    if stage.requested_precision != stage.precision:
        return f"{stage.precision} ({stage.requested_precision} requested, this processor has none)"
    return stage.precision


def print_result(console: "Console", result: "RunResult", kind: str) -> None:
    """Print the metrics of a finished run, the time that all its processes took, and where its files are."""
    protocol = result.results["protocol"]
    console.print()
    console.print(
        f"Trained and measured on {protocol['images']} validation {kind} in {duration(result.seconds)}", style="bold"
    )
    console.print(metrics_table(result.results["figures"]))
    print_cautions(console, result.results)
    console.print()
    files = pair_table()
    for picture in sorted(result.samples.glob("*.png")):
        videos = [path for path in sorted(result.samples.glob(f"{picture.stem}.*")) if path != picture]
        also = f", also {', '.join(path.suffix for path in videos)}" if videos else ""
        files.add_row(picture.stem, f"{picture}{also}")
    files.add_row("metrics and protocol", str(result.folder / "figures.json"))
    files.add_row("model", str(result.export))
    console.print(files)
