"""What `ulzoo find --model` does: the loss factor at which a variable-rate model has a rate or a PSNR."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from ulzoo.cli.display.progress import phase_progress
from ulzoo.cli.display.tables import print_cautions
from ulzoo.cli.display.terminal import console, examples, to_json
from ulzoo.cli.rate_options import set_rate

if TYPE_CHECKING:
    from ulzoo.registry.runs.evaluate import DataOptions

SEARCHED_IMAGES, SEARCHED_CLIPS = 512, 64  # as many as `ulzoo train` measures


def find_rate(
    name: str,
    *,
    bits: float | None,
    psnr: float | None,
    bias: float | None,
    data: "DataOptions",
    device: str | None,
    json: bool,
) -> None:
    """Search on validation data or others; print the loss factor, what it reaches, and a command that uses it.

    Args:
        name: of the model, as typed.
        bits, psnr: the target, one of the two.
        bias: of a model that was trained over a range of it.
        data: what to measure on; its limit is 512 images or 64 clips if None.

    Raises:
        ValueError: the model has one rate, or the target is outside of its range.
    """
    from ulzoo.registry.runs.evaluate import Evaluation, EvaluationOptions
    from ulzoo.registry.runs.rate_search import UNITS, find_loss_factor
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device

    picked = pick_device(device)
    export = open_model(name, picked)
    if "loss_factor" not in export.model.rate_range:
        raise ValueError(f"{name}: was trained at one loss factor, so it has one rate")
    set_rate(name, export.model, bias=bias)
    limit = data.limit or (SEARCHED_CLIPS if export.model.contract.video else SEARCHED_IMAGES)
    evaluation = Evaluation.open(export, EvaluationOptions(replace(data, limit=limit)), picked)
    unit = examples(export.model.contract.size)
    with phase_progress(unit, quiet=False) as on_progress:
        search = find_loss_factor(export.model, evaluation, bits=bits, psnr=psnr, on_progress=on_progress)
    rate = f"--loss-factor {search.loss_factor:g}" + ("" if bias is None else f" --bias {bias:g}")
    command = f"ulzoo reconstruct {shlex.quote(name)} {rate}"
    if json:
        head = {"model": name, "spec_hash": export.spec.hash, "figure": search.metric, "target": search.target}
        print(to_json({**head, "measured": [search.low, search.high], **search.results, "command": command}))
        return
    figures, terminal = search.results["figures"], console()
    reached = ", ".join(
        f"{figures[metric]:.{digits}f} {UNITS[metric]}" for metric, digits in (("bits_per_pixel", 4), ("psnr_db", 2))
    )
    count = search.results["protocol"]["images"]
    where = "your own" if data.images else evaluation.config.split
    terminal.print(f"loss factor {search.loss_factor:g}: {reached}, on {count} {unit} of {where}", soft_wrap=True)
    print_cautions(terminal, search.results)
    terminal.print(f"\nnext  {command}", soft_wrap=True, markup=False)
