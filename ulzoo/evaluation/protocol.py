"""The protocol of a metric, everything that its value depends on, as fields with a hash; comparison of two results."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ulzoo.model.contract import Contract

FIELDS = {
    "data": "data section of the spec, without machine-dependent keys",
    "split": "train or val, or all of a folder",
    "fingerprint": "content of the measured images or clips, in `generated` and `frechet` of the reference",
    "images": "number of images or clips: all of the split, or with `--limit` some that are spread over it",
    "left_out": "number of examples that could not be read",
    "batch_size": "examples per batch; only in results of earlier versions, where a batch shared its noise",
    "seed": "seed of all noise",
    "dtype": "dtype of the computation",
    "rate_samples": "draws of (t, ε) per example for the rate",
    "rate": "definition of the rate",
    "psnr": "how PSNR is averaged",
    "ssim": "SSIM variant and how it is averaged",
    "ms_ssim": "MS-SSIM variant and how it is averaged",
    "lpips": "how LPIPS is averaged, the network, and the hashes of its weights",
    "mean_image": "split, number of examples and hash of the mean image, whose PSNR is averaged as `psnr` says",
    "base_sampler": "sampler of the latents",
    "base_steps": "its number of network evaluations",
    "guidance": "its classifier-free guidance scale",
    "guidance_interval": "log-SNR interval of guidance; null for all levels",
    "decoder_sampler": "sampler of the decoder",
    "decoder_steps": "its number of network evaluations",
    "decoder_network": "distilled, if the distilled decoder decodes",
    "loss_factor": "loss factor at which a variable-rate model is measured",
    "bias": "the same of its bias",
    "precision": "precision of the model's networks, if not fp32",
    "tf32": "operations in TensorFloat-32 instead of fp32, on a GPU that has it, if any",
    "labels": "classes and captions that samples are conditioned on",
    "noise": "what the noise of an example depends on; absent in results of earlier versions",
    "frames": "frames per clip; bits/pixel are bits over frames × height × width",
    "frame_rate": "frames per second; null if each video keeps its own",
    "clip": "position of the clip in a video",
    "resize": "how images are resized",
    "given_frames": "number of context frames; the texts of the metrics say how they are used",
    "given_frames_of": "split that the context frames are taken from",
    "given_frames_compared": "whether the comparison includes the context frames",
    "figures": "the metrics of this part",
    "compared": "what is compared with the reference",
    "clips": "number of generated clips",
    "samples": "number of compared images",
    "reference": "split or file of the reference",
    "reference_clips": "number of reference clips",
    "reference_images": "number of reference images",
    "reference_sha256": "hash of the reference's pixels, or of the statistics file",
    "network": "feature network",
    "network_sha256": "hash of its weights",
    "features": "its layer",
    "preprocessing": "from uint8 pixels to the network's input",
    "distance": "formula of the distance",
    "kernel": "kernel and subsets of the kernel distance",
    "neighbours": "number of neighbours for precision and recall",
    "inception_score": "number of splits of the Inception score",
    "clip_score": "definition of the CLIP score",
    "captions_sha256": "hash of the captions as text",
    "caution": "why the metric is biased",
    "samples_per_clip": "continuations per clip",
    "copy_last": "baseline of the frame prediction",
    "frame_prediction": "protocol of the frame prediction",
    "frechet": "protocol of the Fréchet distances",
    "reconstructions": "protocol of the distances of reconstructions",
    "generated": "protocol of the distances of samples",
    "captioned": "protocol of the CLIP score of samples",
}

FINGERPRINT = "fingerprint"
PARTS = ("frame_prediction", "frechet", "reconstructions", "generated", "captioned")
IGNORED = ("data.hflip", "data.verify")  # evaluation never mirrors; older versions recorded how files were checked
_RATES = {"rate_samples", "rate"}
_DECODED = {"decoder_sampler", "decoder_steps", "decoder_network"}
_CONTROLS = {"loss_factor", "bias"}
_MEANS = {  # field: its metrics
    "psnr": r"(mean_image_)?psnr_db",
    "ssim": r"ssim$",
    "ms_ssim": r"ms_ssim$",
    "lpips": r"(st_)?lpips_",
    "mean_image": r"mean_image_",
}
_MISSING = object()


class Protocol(dict[str, Any]):
    """Everything a metric depends on besides the weights: a subset of FIELDS, ready for JSON."""

    def __init__(self, **fields: Any) -> None:
        assert fields.keys() <= FIELDS.keys(), fields.keys() - FIELDS.keys()
        super().__init__(fields)

    @property
    def hash(self) -> str:
        return protocol_hash(self)


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """Twelve hex digits that are equal for two protocols if metrics measured by them are comparable."""
    flat = dict(sorted(_flat(protocol)))
    text = json.dumps(flat, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The fields in which two protocols differ, with their values: "data.resolution: 32 and 64"; [] if they agree."""
    flat_a, flat_b = dict(_flat(a)), dict(_flat(b))
    lines = []
    for field in dict.fromkeys((*flat_a, *flat_b)):
        x, y = flat_a.get(field, _MISSING), flat_b.get(field, _MISSING)
        if x != y:
            lines.append(f"{field}: {_text(x)} and {_text(y)}")
    return lines


def protocol_of(results: Mapping[str, Any], figure: str) -> dict[str, Any]:
    """The protocol fields of {"figures", "protocol"} that one metric depends on.

    A rate, for example, does not depend on the steps of the decoder.
    """
    protocol = results["protocol"]
    if figure.startswith(("prediction_", "copy_last_")):
        return protocol["frame_prediction"]
    for name in PARTS:
        if figure in protocol.get(name, {}).get("figures", ()):
            return {field: value for field, value in protocol[name].items() if field != "figures"}
    others = {field for field, figures in _MEANS.items() if not re.match(figures, figure)}
    if "bits_per" not in figure:
        others |= _RATES
    if "bits_per" in figure or figure.startswith("mean_image_"):
        others |= _DECODED
    if figure.startswith("mean_image_"):
        others |= _CONTROLS
    return {field: value for field, value in protocol.items() if field not in others and field not in PARTS}


def figure_hashes(results: Mapping[str, Any]) -> dict[str, str]:
    """The hash of each metric's protocol, by the metric's name."""
    return {figure: protocol_hash(protocol_of(results, figure)) for figure in results["figures"]}


@dataclass(frozen=True)
class Comparison:
    """One metric of two models.

    Attributes:
        figure: name of the metric.
        a, b: its values.
        differences: the fields in which the two protocols differ; the values are comparable only if there are none.
    """

    figure: str
    a: float
    b: float
    differences: tuple[str, ...]


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Comparison]:
    """Compare the metrics that two results {"figures", "protocol"} have in common, except lists of numbers.

    Results of earlier versions have no fingerprint: on which images they were measured is unknown, so that they are
    comparable with no others.

    Raises:
        ValueError: they have no metric in common.
    """
    common = [
        figure
        for figure, value in a["figures"].items()
        if isinstance(value, int | float) and isinstance(b["figures"].get(figure), int | float)
    ]
    if not common:
        raise ValueError("the two have no figure in common")
    return [
        Comparison(
            figure,
            a["figures"][figure],
            b["figures"][figure],
            tuple(_obstacles(protocol_of(a, figure), protocol_of(b, figure))),
        )
        for figure in common
    ]


def _obstacles(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The differences of two protocols of a metric; unknown images differ from all others."""
    if "data" not in a or "data" not in b or (FINGERPRINT in a and FINGERPRINT in b):
        return differences(a, b)
    images = ["recorded" if FINGERPRINT in fields else "unknown" for fields in (a, b)]
    others = ({field: value for field, value in fields.items() if field != FINGERPRINT} for fields in (a, b))
    return [*differences(*others), f"{FINGERPRINT}: {images[0]} and {images[1]}"]


def clip_fields(contract: Contract) -> dict[str, Any]:
    """The protocol fields that describe the clips of a model."""
    frames, height, width = contract.size
    return {
        "frames": frames,
        "frame_rate": contract.frame_rate,
        "clip": "the middle of each video",
        "resize": f"shortest side to {min(height, width)} pixels, centre crop, as the data section's kind does it",
        "given_frames": contract.context_frames,
    }


def count_skipped(skipped: Mapping[int, str]) -> dict[str, int]:
    """The protocol field for examples that could not be read, with a warning that names the first; {} without any.

    Args:
        skipped: index of each skipped example -> why it could not be read.
    """
    if not skipped:
        return {}
    more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
    warnings.warn(f"left out: {next(iter(skipped.values()))}{more}", stacklevel=1)
    return {"left_out": len(skipped)}


def _flat(protocol: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested fields, by their paths.

    Keys of the data section that are null or false count as absent, so that a key added in a later version leaves
    earlier results comparable.
    """
    for field, value in protocol.items():
        path = f"{prefix}{field}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        elif path not in IGNORED and not (prefix and (value is None or value is False)):
            yield path, list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    return "nothing" if value is _MISSING else json.dumps(value, ensure_ascii=False)
