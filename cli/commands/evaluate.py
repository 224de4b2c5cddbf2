"""`ulzoo evaluate`: rate, distortion, frame prediction and distances, with their protocol; comparison of two models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.completion import complete_models
from ulzoo.cli.display.progress import phase_progress
from ulzoo.cli.display.tables import metrics_table, print_cautions
from ulzoo.cli.display.terminal import console, examples, to_json

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents

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
  [cyan]ulzoo evaluate emoji32_tiny --images photographs[/]      a folder of your own, or files
  [cyan]ulzoo evaluate moved.safetensors --data root=/data/imagenet[/]
"""

IMAGE_DISTANCES = ("fid", "fd_dinov2", "fd_efficientnet_lite0")
DETECTOR_FILES = ("fid", "fd_dinov2", "fvd")  # distances whose network is a published file
LPIPS_FILES = ("alex", "vgg")
PROCESS_TIMEOUT = 24 * 60.0  # minutes that processes wait for each other

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="Released models, exported files, run directories or hf://ORG/REPO@REVISION.",
        autocompletion=complete_models,
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of images or clips; default: all.")]
RateSamples = Annotated[int, typer.Option(min=1, help="Draws of time and noise per example for the rate.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; default: the spec's.")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Examples per batch; default: 64 images or 8 clips."),
]
Frechet = Annotated[
    Literal["fid", "fd_dinov2", "fd_efficientnet_lite0", "fvd", "fd_transnetv2"] | None,
    typer.Option(
        help="Also measure a Fréchet distance: the first three of images, the others of clips. The weights of "
        "fd_efficientnet_lite0 and fd_transnetv2 come with packages."
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=2, help="Number of images to generate for the distance; default: only reconstructions."
    ),
]
Clips = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=2, help="Number of clips to generate; default: as many as the reference, at most 2048."
    ),
]
ClipProtocols = Annotated[
    Literal["k600_64", "k600_128"] | None,
    typer.Option(
        help="Compare clips by MAGVIT's protocol of Kinetics-600, at 64 or 128 pixels: --clips, or 50,000, per fold."
    ),
]
Folds = Annotated[int | None, typer.Option(metavar="N", min=1, help="Folds of --clip-protocol; default: 4.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale of the samples; default: the spec's.")]
ReferenceSplit = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT",
        help="Split to compare samples with; default: train, for clips and with --images that of --split.",
    ),
]
ReferenceStatistics = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz", dir_okay=False, help="Compare samples with the mu and sigma in this file (ADM, EDM)."
    ),
]
SaveStatistics = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz", dir_okay=False, help="Write mu and sigma of the reference to a file for other programs."
    ),
]
SaveSamples = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz", dir_okay=False, help="Write the samples to a file, in ADM's layout: arr_0, uint8 NHWC."
    ),
]
AllDistances = Annotated[
    bool,
    typer.Option(
        "--all-distances", help="Also measure kernel distance, precision, recall and, with fid, the Inception score."
    ),
]
Detector = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        help="torch-fidelity's weights of Inception, dinov2_vitl14_pretrain.pth or i3d_torchscript.pt.",
    ),
]
DetectorSha256 = Annotated[
    str | None, typer.Option(metavar="HEX", help="SHA-256 of the detector, if it is not the published file.")
]
LpipsNetwork = Annotated[
    Literal["alex", "vgg", "st_alex"] | None,
    typer.Option(
        help="Also measure LPIPS of reconstructions. The weights of st_alex, which is another metric, come with a "
        "package."
    ),
]
LpipsWeights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", dir_okay=False, help="torchvision's weights of AlexNet or VGG-16."),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Download the weights of fid (96 MB), fd_dinov2 (1,161), fvd (51), lpips alex (233) or vgg (528) once, "
        "and verify their hash.",
    ),
]
RatePlot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.png", dir_okay=False, help="Plot the distribution of the rate over log-SNR and channels."
    ),
]
Compare = Annotated[
    bool,
    typer.Option("--compare", help="Compare the metrics of two models, or of JSON files written by --out."),
]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE.json", dir_okay=False, help="Write metrics and protocol to a file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print metrics and protocol as JSON instead of a table.")]


def evaluate(
    models: Models,
    images: options.Images = None,
    data: options.Data = None,
    split: options.Split = None,
    limit: Limit = None,
    rate_samples: RateSamples = 8,
    steps: Steps = None,
    batch_size: BatchSize = None,
    frechet: Frechet = None,
    samples: Samples = None,
    clips: Clips = None,
    clip_protocol: ClipProtocols = None,
    folds: Folds = None,
    guidance: Guidance = None,
    reference: ReferenceSplit = None,
    reference_statistics: ReferenceStatistics = None,
    save_statistics: SaveStatistics = None,
    save_samples: SaveSamples = None,
    all_distances: AllDistances = False,
    detector: Detector = None,
    detector_sha256: DetectorSha256 = None,
    lpips: LpipsNetwork = None,
    lpips_weights: LpipsWeights = None,
    download: Download = False,
    rate_plot: RatePlot = None,
    compare: Compare = False,
    seed: options.Seed = 0,
    out: Out = None,
    json: Json = False,
    device: options.Device = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
) -> None:
    """Measure the rate in bits/pixel and bits/dimension, by prior and by base, PSNR, SSIM and MS-SSIM.

    For a model of clips also the PSNR of each frame and the quality of frame prediction; on request, distances between
    the images or clips of the model and of its data. Metrics are comparable if their protocols agree; --compare shows
    where they differ.
    """
    if compare:
        if images or data:
            raise ValueError("--images and --data give data to measure on; --compare measures nothing")
        from ulzoo.cli.display.comparison import show_comparison

        show_comparison(models, json)
        return
    if len(models) != 1:
        raise ValueError("one model is measured at a time; --compare compares two")
    of_images, detector_file, lpips_file = frechet in IMAGE_DISTANCES, frechet in DETECTOR_FILES, lpips in LPIPS_FILES
    for conflict, message in (
        (
            not detector_file and (detector or detector_sha256),
            "--detector and --detector-sha256 go with --frechet fid, fd_dinov2 or fvd",
        ),
        (not lpips_file and lpips_weights, "--lpips-weights goes with --lpips alex or vgg"),
        (
            not detector_file and not lpips_file and download,
            "--download goes with --frechet fid, fd_dinov2 or fvd, or --lpips alex or vgg",
        ),
        (frechet is None and (clips or reference), "--clips and --reference go with --frechet"),
        (clip_protocol and (frechet is None or of_images), "--clip-protocol goes with --frechet fvd or fd_transnetv2"),
        (folds and not clip_protocol, "--folds goes with --clip-protocol"),
        (
            not of_images and (samples or all_distances or reference_statistics or save_statistics),
            "--samples, --reference-statistics, --save-statistics and --all-distances go with --frechet fid, "
            "fd_dinov2 or fd_efficientnet_lite0",
        ),
        (
            samples is None and (reference_statistics or save_samples or guidance is not None),
            "--reference-statistics, --save-samples and --guidance go with --samples",
        ),
        (
            of_images and (clips or (reference and samples is None)),
            "distances of images take --samples instead of --clips, and --reference only with it",
        ),
    ):
        if conflict:
            raise ValueError(message)

    from ulzoo.evaluation import EvaluationConfig, FrechetConfig
    from ulzoo.evaluation import evaluate as evaluate_model
    from ulzoo.evaluation.clip_protocols import choose_protocol
    from ulzoo.evaluation.features.loading import load_features, load_lpips
    from ulzoo.evaluation.mean_image import MeanImage
    from ulzoo.evaluation.sample_file import UnwrittenFiles, check_destinations
    from ulzoo.files.atomic import write_text
    from ulzoo.registry.runs.cautions import mean_training_image
    from ulzoo.registry.runs.inference import optimize_for_inference
    from ulzoo.registry.runs.own_data import default_split, open_data, replace_data
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device
    from ulzoo.runtime.processes import launched_rank, local_device, process_group
    from ulzoo.visualization import check_rate_plot, save_rate_plot

    if rate_plot:
        check_rate_plot(rate_plot)
    check_destinations((rate_plot, save_statistics, save_samples, out))
    picked = local_device(pick_device(device))
    export = open_model(models[0], picked)
    model, spec = export.model, replace_data(export, images or (), data or ())
    split = split or default_split(images)
    source = open_data(export, spec, split)
    optimize_for_inference(model, precision=precision, compile=compile)
    comparison = None
    if frechet:
        _check_model(frechet, model, generates=bool(samples) or not of_images)
        protocol = choose_protocol(clip_protocol, folds, clips)
        if protocol:
            protocol.check(model.contract)
        reference = reference or ("train" if of_images and not images else split)
        comparison = FrechetConfig(
            load_features(frechet, detector, sha256=detector_sha256, download=download, device=picked),
            samples=samples if of_images else clips,
            reference=open_data(export, spec, reference, samples=bool(samples)) if samples or not of_images else None,
            reference_split=reference,
            statistics=reference_statistics,
            save_statistics=save_statistics,
            save_samples=save_samples,
            all_distances=all_distances,
            clip_protocol=protocol,
        )
    mean_image = MeanImage.from_dict(export.results.get("mean_image"), model.contract.channels)
    downloads = getattr(spec.data, "download", False)
    if mean_image is None and not images and not downloads:  # an export of an earlier version
        mean_image = mean_training_image(spec)
    config = EvaluationConfig(
        spec.data_identity(),
        split=split,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        rate_samples=rate_samples,
        decompose_rate=rate_plot is not None,
        lpips=load_lpips(lpips, lpips_weights, download=download, device=picked) if lpips else None,
        decoder_steps=steps,
        guidance=guidance,
        mean_image=mean_image,
        precision=precision,
    )
    unit = examples(model.contract.size)
    with (
        process_group(picked, PROCESS_TIMEOUT) as processes,
        phase_progress(unit, quiet=launched_rank() > 0) as on_progress,
    ):
        results = evaluate_model(model, source, config, comparison, processes=processes, on_progress=on_progress)
    if not processes.is_main:
        return
    results = {"model": models[0], "spec_hash": export.spec.hash, **results}
    if json:  # before any file is written, which may fail
        print(to_json(results))
    else:
        terminal = console()
        terminal.print(f"{models[0]} on {results['protocol']['images']} {unit} of {split}", style="bold")
        terminal.print(metrics_table(results["figures"]))
        print_cautions(terminal, results)
        if not out:
            print(to_json({"protocol": results["protocol"]}))
    unwritten = UnwrittenFiles(results.get("not_written", {}))
    if out:
        with unwritten.catching(out):
            write_text(out, to_json(results) + "\n")
    if rate_plot:
        with unwritten.catching(rate_plot):
            save_rate_plot(rate_plot, results["rate"], models[0])
    if not json:
        for path in filter(None, (rate_plot, save_statistics, save_samples, out)):
            if str(path) not in unwritten:
                print(path)
    if unwritten:
        raise typer.Exit(1)


def _check_model(metric: str, model: "UnifiedLatents", *, generates: bool) -> None:
    """Check that a Fréchet distance suits the model, before any weights are loaded and anything is measured.

    Raises:
        ValueError: it compares clips instead of images, or the reverse, or needs a base or longer clips.
    """
    contract, of_images = model.contract, metric in IMAGE_DISTANCES
    if contract.video == of_images:
        compared, generated = ("images", "clips") if of_images else ("clips", "images")
        raise ValueError(f"--frechet {metric} compares {compared}: this is a model of {generated}")
    if model.base is None and not contract.single_stage and generates:
        raise ValueError("--frechet needs a base: this model's second stage was not trained")
    if metric == "fvd":
        from ulzoo.evaluation.features.videos import I3DLogits

        if contract.size[0] < I3DLogits.min_frames:
            raise ValueError(f"fvd needs clips of at least {I3DLogits.min_frames} frames, not {contract.size[0]}")
