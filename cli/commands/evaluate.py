"""`ulzoo evaluate`: rate, distortion, frame prediction and distances, with their protocol; comparison of two models."""

from pathlib import Path

import typer

from ulzoo.cli import evaluation_options, options, rate_options
from ulzoo.cli.display.progress import phase_progress
from ulzoo.cli.display.tables import metrics_table, print_cautions
from ulzoo.cli.display.terminal import console, examples, to_json

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo evaluate emoji32_tiny[/]
  [cyan]ulzoo evaluate runs/a --limit 64 --rate-samples 32 --out figures.json[/]
  [cyan]ulzoo evaluate runs/a --json | jq .figures[/]
  [cyan]ulzoo evaluate runs/a --frechet fd_efficientnet_lite0 --samples 2048[/]
  [cyan]ulzoo evaluate runs/a --frechet fid --samples 50000 --download --out fid.json[/]
  [cyan]ulzoo evaluate runs/video --frechet fvd --clips 2048 --detector i3d_torchscript.pt[/]
  [cyan]ulzoo evaluate runs/text --frechet fid --samples 30000 --clip-score vit_l14 --download[/]
  [cyan]ulzoo evaluate runs/a --lpips alex --download[/]
  [cyan]ulzoo evaluate emoji32_tiny --rate-plot rate.png[/]
  [cyan]ulzoo evaluate runs/a --loss-factor 1,1.5,2,3,4 --rate-distortion-plot curve.png[/]      of one va
  [cyan]ulzoo evaluate runs/a figures.json --compare[/]
  [cyan]ulzoo evaluate emoji32_tiny --images photographs[/]      a folder of your own, or files
  [cyan]ulzoo evaluate moved.safetensors --data root=/data/imagenet[/]
  [cyan]ulzoo evaluate runs/a --milestones --frechet fid --samples 50000[/]      a curve over training
"""


def evaluate(
    models: options.Models,
    images: options.Images = None,
    data: options.Data = None,
    split: options.Split = None,
    limit: evaluation_options.Limit = None,
    rate_samples: evaluation_options.RateSamples = 8,
    loss_factor: evaluation_options.LossFactors = None,
    bias: rate_options.Bias = None,
    decoder: options.Decoder = None,
    steps: evaluation_options.Steps = None,
    batch_size: evaluation_options.BatchSize = None,
    frechet: evaluation_options.Frechet = None,
    samples: evaluation_options.Samples = None,
    clips: evaluation_options.Clips = None,
    clip_protocol: evaluation_options.ClipProtocols = None,
    folds: evaluation_options.Folds = None,
    guidance: evaluation_options.Guidance = None,
    reference: evaluation_options.ReferenceSplit = None,
    reference_statistics: evaluation_options.ReferenceStatistics = None,
    save_statistics: evaluation_options.SaveStatistics = None,
    save_samples: evaluation_options.SaveSamples = None,
    all_distances: evaluation_options.AllDistances = False,
    detector: evaluation_options.Detector = None,
    detector_sha256: evaluation_options.DetectorSha256 = None,
    lpips: evaluation_options.LpipsNetwork = None,
    lpips_weights: evaluation_options.LpipsWeights = None,
    clip_score: evaluation_options.ClipScore = None,
    clip_weights: evaluation_options.ClipWeights = None,
    download: evaluation_options.Download = False,
    rate_plot: evaluation_options.RatePlot = None,
    rate_distortion_plot: evaluation_options.RateDistortionPlot = None,
    compare: evaluation_options.Compare = False,
    milestones: evaluation_options.Milestones = False,
    seed: options.Seed = 0,
    out: evaluation_options.Out = None,
    json: evaluation_options.Json = False,
    device: options.Device = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
) -> None:
    """Measure the rate in bits/pixel and bits/dimension, by prior and by base, PSNR, SSIM and MS-SSIM.

    For a model of clips also the PSNR of each frame and the quality of frame prediction; on request, distances between
    the images or clips of the model and of its data. Metrics are comparable if their protocols agree; --compare shows
    where they differ. Several loss factors make a rate-distortion curve of a variable-rate model.
    """
    if compare:
        if images or data or loss_factor is not None or bias is not None:
            raise ValueError("--images, --data, --loss-factor and --bias are for measuring; --compare measures nothing")
        from ulzoo.cli.display.comparison import show_comparison

        show_comparison(models, json)
        return
    if len(models) != 1 and not milestones:
        raise ValueError("one model is measured at a time; --compare compares two")
    if milestones and any((rate_plot, save_statistics, save_samples, out)):
        raise ValueError("--milestones writes milestones.json and plots into each run, and no other files")
    if milestones and (loss_factor is not None or bias is not None):
        raise ValueError("--milestones measures at the middle of the range: leave out --loss-factor and --bias")
    factors = rate_options.parse_loss_factors(loss_factor)
    if len(factors) > 1 and any((rate_plot, save_statistics, save_samples)):
        raise ValueError("--rate-plot, --save-statistics and --save-samples go with one loss factor")
    if len(factors) < 2 and rate_distortion_plot:
        raise ValueError("--rate-distortion-plot goes with several loss factors, such as --loss-factor 1,2,4")

    from ulzoo.evaluation.noise_levels import NoiseLevels
    from ulzoo.evaluation.sample_file import UnwrittenFiles, check_destinations
    from ulzoo.files.atomic import write_text
    from ulzoo.registry.runs.evaluate import (
        PROCESS_TIMEOUT,
        DataOptions,
        DistanceOptions,
        Evaluation,
        EvaluationOptions,
        NetworkOptions,
    )
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device
    from ulzoo.runtime.processes import launched_rank, local_device, process_group
    from ulzoo.visualization import check_rate_plot, save_rate_plot

    measured = EvaluationOptions(
        DataOptions(tuple(images or ()), tuple(data or ()), split, limit),
        DistanceOptions(
            frechet,
            samples=samples,
            clips=clips,
            clip_protocol=clip_protocol,
            folds=folds,
            reference=reference,
            reference_statistics=reference_statistics,
            save_statistics=save_statistics,
            save_samples=save_samples,
            all_distances=all_distances,
            clip_score=clip_score,
        ),
        NetworkOptions(detector, detector_sha256, lpips, lpips_weights, clip_weights, download),
        rate_samples=rate_samples,
        decoder=decoder,
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
        seed=seed,
        decompose_rate=rate_plot is not None,
        precision=precision,
        compile=compile,
    )
    for path in filter(None, (rate_plot, rate_distortion_plot)):
        check_rate_plot(path)
    check_destinations((rate_plot, rate_distortion_plot, save_statistics, save_samples, out))
    picked = local_device(pick_device(device))
    if milestones:
        from ulzoo.cli.milestones import measure_milestones

        measure_milestones([Path(run) for run in models], measured, picked, json=json)
        return
    export = open_model(models[0], picked)
    rate_options.check_loss_factors(models[0], export.model, factors)
    rate_options.set_rate(models[0], export.model, factors[0] if len(factors) == 1 else None, bias)
    evaluation = Evaluation.open(export, measured, picked)
    if len(factors) > 1:
        from ulzoo.cli.rate_curve import measure_curve

        measure_curve(models[0], export, evaluation, factors, json=json, out=out, plot=rate_distortion_plot)
        return
    unit = examples(export.model.contract.size)
    with (
        process_group(picked, PROCESS_TIMEOUT) as processes,
        phase_progress(unit, quiet=launched_rank() > 0) as on_progress,
    ):
        results = evaluation.run(export.model, processes=processes, on_progress=on_progress)
    if not processes.is_main:
        return
    results = {"model": models[0], "spec_hash": export.spec.hash, **results}
    if json:  # before any file is written, which may fail
        print(to_json(results))
    else:
        terminal = console()
        heading = f"{models[0]} on {results['protocol']['images']} {unit} of {evaluation.config.split}"
        for name, value in export.model.default_rate.items():
            heading += f", {name.replace('_', ' ')} {value:g}"
        terminal.print(heading, style="bold")
        terminal.print(metrics_table(results["figures"]))
        if "noise_levels" in results:
            for line in NoiseLevels(**results["noise_levels"]).describe():
                terminal.print(line, soft_wrap=True, markup=False, highlight=False)
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
