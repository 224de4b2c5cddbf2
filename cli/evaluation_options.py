"""Options of `ulzoo evaluate`, in the groups in which --help shows them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

# ------------------------------------------------------------------------------------------------- what is measured

Limit = Annotated[int | None, typer.Option(min=1, help="Number of images or clips, spread over all; default: all.")]
RateSamples = Annotated[int, typer.Option(min=1, help="Draws of time and noise per example for the rate.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; default: the spec's.")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Examples per batch; default: 64 images or 8 clips."),
]
LossFactors = Annotated[
    str | None,
    typer.Option(
        metavar="V1,V2,...",
        help="Loss factors at which a variable-rate model is measured: several make a curve; default: the middle of "
        "its range.",
        show_default=False,
    ),
]
Compare = Annotated[
    bool,
    typer.Option("--compare", help="Compare the metrics of two models, or of JSON files written by --out."),
]

Milestones = Annotated[
    bool,
    typer.Option(
        "--milestones",
        help="Measure all milestones of runs (train.STAGE.milestone_every) as curves over training FLOPs, written to "
        "milestones.json and plots in each run. Those measured before by the same protocol are not measured again.",
    ),
]

# ---------------------------------------------------------------------------------------- distances between sets

DISTANCES = "Distances between sets of images or clips"

Frechet = Annotated[
    Literal["fid", "fd_dinov2", "fd_efficientnet_lite0", "fvd", "fd_transnetv2"] | None,
    typer.Option(
        rich_help_panel=DISTANCES,
        help="Also measure a Fréchet distance: the first three of images, the others of clips. The weights of "
        "fd_efficientnet_lite0 and fd_transnetv2 come with packages.",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=2,
        rich_help_panel=DISTANCES,
        help="Number of images to generate for the distance; default: only reconstructions.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(rich_help_panel=DISTANCES, help="Guidance scale of the samples; default: the spec's."),
]
Clips = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=2,
        rich_help_panel=DISTANCES,
        help="Number of clips to generate; default: as many as the reference, at most 2048.",
    ),
]
ClipProtocols = Annotated[
    Literal["k600_64", "k600_128"] | None,
    typer.Option(
        rich_help_panel=DISTANCES,
        help="Compare clips by MAGVIT's protocol of Kinetics-600, at 64 or 128 pixels: --clips, or 50,000, per fold.",
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, rich_help_panel=DISTANCES, help="Folds of --clip-protocol; default: 4."),
]
ReferenceSplit = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT",
        rich_help_panel=DISTANCES,
        help="Split to compare samples with; default: train, for clips and with --images that of --split.",
    ),
]
ReferenceStatistics = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz",
        dir_okay=False,
        rich_help_panel=DISTANCES,
        help="Compare samples with the mu and sigma in this file (ADM, EDM).",
    ),
]
AllDistances = Annotated[
    bool,
    typer.Option(
        "--all-distances",
        rich_help_panel=DISTANCES,
        help="Also measure kernel distance, precision, recall and, with fid, the Inception score.",
    ),
]

# -------------------------------------------------------------------------------------- networks of the metrics

NETWORKS = "Networks of the metrics"

LpipsNetwork = Annotated[
    Literal["alex", "vgg", "st_alex"] | None,
    typer.Option(
        rich_help_panel=NETWORKS,
        help="Also measure LPIPS of reconstructions. The weights of st_alex, which is another metric, come with a "
        "package.",
    ),
]
LpipsWeights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        rich_help_panel=NETWORKS,
        help="torchvision's weights of AlexNet or VGG-16.",
    ),
]
ClipScore = Annotated[
    Literal["vit_b32", "vit_l14"] | None,
    typer.Option(
        rich_help_panel=NETWORKS,
        help="Also measure the CLIP score of the samples of a model of captions, by one of OpenAI's networks.",
    ),
]
ClipWeights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", dir_okay=False, rich_help_panel=NETWORKS, help="The published weights of that CLIP."),
]
Detector = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        rich_help_panel=NETWORKS,
        help="torch-fidelity's weights of Inception, dinov2_vitl14_pretrain.pth or i3d_torchscript.pt.",
    ),
]
DetectorSha256 = Annotated[
    str | None,
    typer.Option(
        metavar="HEX", rich_help_panel=NETWORKS, help="SHA-256 of the detector, if it is not the published file."
    ),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download",
        rich_help_panel=NETWORKS,
        help="Download the weights of fid (96 MB), fd_dinov2 (1,161), fvd (51), lpips alex (233) or vgg (528), "
        "clip-score vit_b32 (577) or vit_l14 (1,631) once, and verify their hash.",
    ),
]

# ------------------------------------------------------------------------------------------ files that are written

FILES = "Files and printing"

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json", dir_okay=False, rich_help_panel=FILES, help="Write metrics and protocol to a file."
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=FILES, help="Print metrics and protocol as JSON instead of a table."),
]
RatePlot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.png",
        dir_okay=False,
        rich_help_panel=FILES,
        help="Plot the distribution of the rate over log-SNR and channels.",
    ),
]
RateDistortionPlot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.png",
        dir_okay=False,
        rich_help_panel=FILES,
        help="With several loss factors: plot PSNR and the other metrics against the rate.",
    ),
]
SaveStatistics = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz",
        dir_okay=False,
        rich_help_panel=FILES,
        help="Write mu and sigma of the reference to a file for other programs.",
    ),
]
SaveSamples = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz",
        dir_okay=False,
        rich_help_panel=FILES,
        help="Write the samples to a file, in ADM's layout: arr_0, uint8 NHWC.",
    ),
]
