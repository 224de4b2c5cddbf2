"""`ulzoo evaluate`: rate, distortion, frame prediction and distances, with their protocol; and comparing two."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.display.terminal import console, examples, figures_table, to_json

if TYPE_CHECKING:
    from ulzoo.registry.runs.export import Export

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo evaluate emoji32_tiny[/]
  [cyan]ulzoo evaluate runs/a --limit 64 --rate-samples 32 --out figures.json[/]
  [cyan]ulzoo evaluate runs/a --json | jq .figures[/]
  [cyan]ulzoo evaluate runs/a --frechet fd_efficientnet_lite0 --samples 2048[/]
  [cyan]ulzoo evaluate runs/a --frechet fid --samples 50000 --download --out fid.json[/]
  [cyan]ulzoo evaluate runs/video --frechet fvd --clips 2048 --detector i3d_torchscript.pt[/]
  [cyan]ulzoo evaluate runs/a --lpips alex --download[/]
  [cyan]ulzoo evaluate emoji32_tiny --rate-plot rate.png[/]
  [cyan]ulzoo evaluate runs/a figures.json --compare[/]
"""

IMAGES = ("fid", "fd_dinov2", "fd_efficientnet_lite0")
DETECTED = ("fid", "fd_dinov2", "fvd")
A_DAY = 24 * 60.0  # minutes that processes wait for the first one
PNG = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", dir_okay=False, help="Draw where the rate's bits sit: over log-SNR and channels."),
]


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL", help="Released models, exported files, run directories or hf://ORG/REPO@REVISION."
        ),
    ],
    split: options.Split = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="How many images or clips; all if left out.")] = None,
    rate_samples: Annotated[int, typer.Option(min=1, help="Draws of time and noise per example for the rate.")] = 8,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; else the spec's.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Examples at once, noise is drawn batch by batch; 64 images or 8 clips if left out."),
    ] = None,
    frechet: Annotated[
        Literal["fid", "fd_dinov2", "fd_efficientnet_lite0", "fvd", "fd_transnetv2"] | None,
        typer.Option(
            help="Also measure a Fréchet distance: the first three of images, the others of clips; "
            "fd_efficientnet_lite0 and fd_transnetv2 have their weights in a package."
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="How many images to generate for it; without, it is of reconstructions."),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="How many clips to generate; as many as the reference, at most 2048."),
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance of the samples; else the spec's.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="What samples are compared with; else train, and --split of clips."),
    ] = None,
    reference_statistics: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", dir_okay=False, help="Compare samples with these mu and sigma (ADM, EDM)."),
    ] = None,
    save_statistics: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", dir_okay=False, help="Write the reference's mu and sigma for other programs."),
    ] = None,
    save_samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", dir_okay=False, help="Keep the samples, in ADM's layout: arr_0, uint8 NHWC."),
    ] = None,
    all_distances: Annotated[
        bool,
        typer.Option("--all-distances", help="Also kernel distance, precision, recall and, with fid, Inception score."),
    ] = False,
    detector: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="torch-fidelity's weights of Inception, dinov2_vitl14_pretrain.pth or i3d_torchscript.pt.",
        ),
    ] = None,
    detector_sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Its SHA-256, if it is not the published file.")
    ] = None,
    lpips: Annotated[
        Literal["alex", "vgg", "st_alex"] | None,
        typer.Option(
            help="Also measure LPIPS of reconstructions; st_alex, another number, has its weights in a package."
        ),
    ] = None,
    lpips_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="torchvision's weights of AlexNet or VGG-16."),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Fetch the weights of fid (96 MB), fd_dinov2 (1,161), fvd (51), lpips alex (233) or vgg (528) once, "
            "by their hash.",
        ),
    ] = False,
    rate_plot: PNG = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Of two models, or JSON files of --out: compare the figures they have.")
    ] = False,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", dir_okay=False, help="Write figures and protocol here.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print figures and protocol as JSON instead of a table.")
    ] = False,
    device: options.Device = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
) -> None:
    """Measure the rate in bits/pixel and bits/dimension, by prior and by base, PSNR, SSIM and MS-SSIM.

    Of a model of clips also PSNR frame by frame and how well it continues given frames; if asked, distances between
    what a model makes and its data. Two figures compare only if they were measured alike: --compare says what differs.
    """
    if compare:
        from ulzoo.cli.display.comparison import show_comparison

        show_comparison(models, json)
        return
    if len(models) != 1:
        raise ValueError("one model is measured at a time; --compare compares two")
    model = models[0]
    from ulzoo.evaluation import measure
    from ulzoo.evaluation.protocol import PARTS, figure_hashes
    from ulzoo.files.atomic import write_text
    from ulzoo.registry.runs.inference import optimize_for_inference
    from ulzoo.registry.runs.train import open_source
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device
    from ulzoo.runtime.processes import launched_rank, local_device, process_group
    from ulzoo.visualization.rate_plot import check_rate_plot, save_rate_plot

    if frechet not in DETECTED and (detector or detector_sha256):
        raise ValueError("--detector and --detector-sha256 go with --frechet fid, fd_dinov2 or fvd")
    if lpips not in ("alex", "vgg") and lpips_weights:
        raise ValueError("--lpips-weights goes with --lpips alex or vgg")
    if frechet not in DETECTED and lpips not in ("alex", "vgg") and download:
        raise ValueError("--download goes with --frechet fid, fd_dinov2 or fvd, or --lpips alex or vgg")
    if frechet is None and (clips or reference):
        raise ValueError("--clips and --reference go with --frechet")
    if frechet not in IMAGES and (samples or all_distances or reference_statistics or save_statistics):
        raise ValueError(
            "--samples, --reference-statistics, --save-statistics and --all-distances go with --frechet fid, "
            "fd_dinov2 or fd_efficientnet_lite0"
        )
    if samples is None and (reference_statistics or save_samples or guidance is not None):
        raise ValueError("--reference-statistics, --save-samples and --guidance go with --samples")
    if rate_plot:
        check_rate_plot(rate_plot)
    chosen = local_device(pick_device(device))
    loaded = open_model(model, chosen)
    optimize_for_inference(loaded.model, precision=precision, compile=compile)
    if frechet in IMAGES and (clips or (reference and samples is None)):
        raise ValueError("of images it is --samples, and --reference goes with it")
    features: Any = None
    if frechet:
        features = _features(frechet, loaded, detector, detector_sha256, download, chosen, samples)
    perceptual = _lpips(lpips, lpips_weights, download, chosen) if lpips else None
    source = open_source(loaded.spec, split)
    kind = examples(loaded.model.contract.size)
    told: dict[str, Any] = {"data": loaded.spec.data_identity(), "batch_size": batch_size, "seed": seed}
    helps = launched_rank() > 0  # with what takes longest; the first process does the rest, and speaks for all
    results: dict[str, Any] = {}
    if not helps:
        with _progress("evaluating", kind) as shown:
            results = measure(
                loaded.model,
                source,
                **told,
                split=split,
                limit=limit,
                rate_samples=rate_samples,
                decoder_steps=steps,
                decompose=rate_plot is not None,
                lpips=perceptual,
                on_image=shown,
            )
    if rate_plot and not helps:
        save_rate_plot(rate_plot, results["rate"], model)
    if frechet in IMAGES:
        from ulzoo.evaluation import image_distances

        referred = reference or "train"
        with process_group(chosen, A_DAY) as group, _progress("comparing", kind, quiet=helps) as shown:
            distances = image_distances(
                loaded.model,
                source,
                features,
                **told,
                split=split,
                limit=limit,
                decoder_steps=steps,
                guidance=guidance,
                samples=samples,
                reference=open_source(loaded.spec, referred) if samples else None,
                reference_split=referred,
                statistics=reference_statistics,
                save_statistics=save_statistics,
                save_samples=save_samples,
                all_distances=all_distances,
                processes=group,
                on_image=shown,
            )
        if helps:
            return
        results["figures"] |= distances["figures"]
        results["protocol"] |= distances["protocol"]
    elif helps:
        return
    elif features is not None:
        from ulzoo.evaluation import generation_distance

        compared = open_source(loaded.spec, reference or split)
        with _progress("generating", kind) as shown:
            distance = generation_distance(
                loaded.model, compared, features, **told, reference=reference or split, clips=clips, on_image=shown
            )
        results["figures"] |= distance["figures"]
        results["protocol"]["frechet"] = distance["protocol"]
    if precision != "fp32":
        whole = results["protocol"]
        for protocol in (whole, *(whole[part] for part in PARTS if part in whole)):
            protocol["precision"] = precision
    results = {"model": model, "spec_hash": loaded.spec.hash, **results, "hashes": figure_hashes(results)}
    if out:
        write_text(out, to_json(results) + "\n")
    if json:
        typer.echo(to_json(results))
        return
    shown_on = console()
    shown_on.print(f"{model} on {results['protocol']['images']} {kind} of {split}", style="bold")
    shown_on.print(figures_table(results["figures"]))
    for path in filter(None, (rate_plot, save_statistics, save_samples)):
        typer.echo(path)
    if out:
        typer.echo(out)
    else:
        typer.echo(to_json({"protocol": results["protocol"]}))


def _features(
    name: str,
    loaded: "Export",
    file: Path | None,
    sha256: str | None,
    download: bool,
    device: Any,
    samples: int | None,
) -> Any:
    """The network of `--frechet`, after everything was checked that can be before anything is measured."""
    from ulzoo.evaluation.features.dinov2 import DINOV2, dinov2
    from ulzoo.evaluation.features.images import efficientnet_lite0, find_inception, inception_v3
    from ulzoo.evaluation.features.videos import I3D, I3DLogits, TransNetV2Features

    model = loaded.model
    contract = model.contract
    if contract.video == (name in IMAGES):
        compared, made = ("clips", "images") if name not in IMAGES else ("images", "clips")
        raise ValueError(f"--frechet {name} compares {compared}: this is a model of {made}")
    if model.base is None and not contract.single_stage and (samples or name not in IMAGES):
        raise ValueError("--frechet needs a base: this model's second stage was not trained")
    if name == "fd_efficientnet_lite0":
        return efficientnet_lite0(device)
    if name == "fid":
        return inception_v3(*find_inception(file, sha256, download), device)
    if name == "fd_dinov2":
        return dinov2(*DINOV2.find(file, sha256, download), device)
    if name == "fd_transnetv2":
        return TransNetV2Features(device)
    if contract.size[0] < I3DLogits.least_frames:
        raise ValueError(f"fvd needs clips of at least {I3DLogits.least_frames} frames, not {contract.size[0]}")
    return I3DLogits(*I3D.find(file, sha256, download), device)


def _lpips(name: str, file: Path | None, download: bool, device: Any) -> Any:
    """The network of `--lpips`."""
    from ulzoo.evaluation.features.lpips import TRUNKS, lpips, shift_tolerant_lpips

    if name == "st_alex":
        return shift_tolerant_lpips(device)
    return lpips(name, *TRUNKS[name].find(file, None, download), device)


@contextmanager
def _progress(name: str, kind: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on a terminal only, and what tells it (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{kind}  {{task.fields[speed]}}"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=quiet or not console(stderr=True).is_terminal,
    )
    with progress:
        task = progress.add_task("", total=None, speed="")

        def tell(done: int, total: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0
            speed = f"{done / elapsed:.1f} {kind}/s" if elapsed else ""
            progress.update(task, completed=done, total=total, speed=speed)

        yield tell
