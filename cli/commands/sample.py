"""`ulzoo sample`: new images or clips by one model or several side by side."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ulzoo.cli import options, rate_options
from ulzoo.cli.pictures import check_picture, check_video, open_data, open_models

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo sample emoji32_tiny[/]
  [cyan]ulzoo sample runs/a emoji32_tiny --labels Flags,Food --guidance 2[/]
  [cyan]ulzoo sample runs/video --n 8 --out clips.gif[/]      clips.png, clips.mp4 and clips.gif
  [cyan]ulzoo sample runs/video --data kind=video_folder root=clips --split all[/]      continues your clips
"""


def sample(
    models: options.Models,
    n: options.Count = 16,
    labels: Annotated[
        str | None,
        typer.Option(metavar="0,NAME", help="Classes to sample, by number or name; default: all, mixed."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="G", min=0, help="Scale of classifier-free guidance, with --labels; default: the spec's."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps that sample the latent; default: the spec's.")] = None,
    seed: options.Seed = 0,
    network: Annotated[
        Literal["base", "prior"] | None,
        typer.Option(
            help="Network that samples the latent: base or stage 1's prior; default: the base if there is one."
        ),
    ] = None,
    decoder: options.Decoder = None,
    loss_factor: rate_options.LossFactor = None,
    bias: rate_options.Bias = None,
    data: options.Data = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Split that context frames or captions come from: val or train.")
    ] = "val",
    without_context: Annotated[
        bool,
        typer.Option("--whole", help="Generate whole clips, without context frames, with a frame prediction model."),
    ] = False,
    out: options.Picture = Path("samples.png"),
    device: options.Device = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
) -> None:
    """Draw new images into a PNG, new clips into a PNG, an MP4 and an animated WebP or GIF.

    A frame prediction model continues clips of its data, which are drawn above their continuations, and a model of
    captions takes those of its data; --data gives other data. Other models need none.
    """
    check_picture(out)
    from ulzoo.visualization import SampleRequest, sample_rows, sampled_clips, save_clips, save_grid

    exports = open_models(models, device, precision, compile)
    loaded = {name: export.model for name, export in exports.items()}
    for name, model in loaded.items():
        rate_options.set_rate(name, model, loss_factor, bias)
    request = SampleRequest(n, labels, guidance, steps, seed, network, whole_clips=without_context, decoder=decoder)
    video = check_video(loaded, out)
    contracts = [model.contract for model in loaded.values()]
    continues = any(contract.context_frames for contract in contracts) and not without_context and network != "prior"
    needs_data = continues if video else any(contract.text_width for contract in contracts)
    if data and not needs_data:
        raise ValueError("--data gives captions or context frames, and this takes none")
    source = open_data(exports, split, n, data=data, samples=True) if needs_data else None
    if not video:
        save_grid(out, sample_rows(loaded, request, source=source))
        print(out)
        return
    for path in save_clips(out, sampled_clips(loaded, request, source=source), contracts[0]):
        print(path)
