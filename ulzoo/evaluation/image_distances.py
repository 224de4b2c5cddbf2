"""How far a model's images are from a data set's: reconstructions from the same images (r…), samples from a split (g…).

Images go from model to network in memory, rounded to uint8, a batch at a time. Each batch's noise comes from the seed
and the number of its first image alone.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulzoo.data import Source, in_order
from ulzoo.data.source import Sample, Unreadable
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.frechet import FeatureStatistics, frechet_distance
from ulzoo.evaluation.protocol import Protocol
from ulzoo.evaluation.rate_distortion import count_left_out, default_batch
from ulzoo.evaluation.reference import Reference
from ulzoo.evaluation.unfinished import Unfinished, place
from ulzoo.media.captions import Text, pad
from ulzoo.media.pixels import to_uint8
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup
from ulzoo.runtime.seeds import derive_seed

SUBSETS, SUBSET = 100, 1000  # of the kernel distance
NEIGHBOURS = 3  # of precision and recall
SPLITS = 10  # of the Inception score
NOISE = "of a batch, by the seed and the number of its first image"
DISTANCE = "Fréchet distance of Gaussians, covariances divided by N - 1"


class Collected:
    """The features of a model's images, as far as its figures need them.

    Args:
        features: the network.
        keep: keep them all, for the figures that are no function of mean and covariance.
    """

    def __init__(self, features: ImageFeatures, keep: bool) -> None:
        self.network, self.keep = features, keep
        self.statistics = FeatureStatistics(features.dimension)
        self.features: list[Tensor] = []
        self.logits: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Take in images in [-1, 1]."""
        features, logits = self.network(to_uint8(x))
        self.statistics.add(features)
        if self.keep:
            self.features.append(features.float().cpu())
            if logits is not None:
                self.logits.append(logits.float().cpu())

    def progress(
        self, folder: Path | None, model: UnifiedLatents, protocol: Protocol, processes: ProcessGroup
    ) -> Unfinished:
        """What this process gathered before, if an evaluation by this protocol was stopped."""
        told = {**protocol, "process": [processes.rank, processes.world_size]} if processes.world_size > 1 else protocol
        known = None if folder is None or self.keep else place(folder, model, told)
        return Unfinished(known, self.statistics)

    def collect(self, processes: ProcessGroup) -> None:
        """Bring together what every process gathered."""
        if processes.world_size > 1:
            assert not self.keep
            states = processes.all_gather(self.statistics.state())
            self.statistics = FeatureStatistics(self.network.dimension)
            for state in states:
                self.statistics.merge(*state)

    def figures(self, prefix: str, reference: Reference, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
        """All figures and what their protocol says of them.

        FID's name ends in the number of images, where that is whole thousands: `gfid_50k`, `rfid_5k`.
        """
        name, short, count = self.network.name, self.network.short, self.statistics.count
        thousands = f"_{count // 1000}k" if name == "fid" and count % 1000 == 0 else ""
        figures = {f"{prefix}{name}{thousands}": frechet_distance(self.statistics, reference.gaussian)}
        told: dict[str, Any] = {"distance": DISTANCE}
        if (fewest := min(count, reference.images or count)) <= self.network.dimension:
            told["caution"] = f"{fewest} images for {self.network.dimension} dimensions: singular, biased upwards"
            warnings.warn(
                f"{prefix}{name} of {fewest} images: with no more images than its {self.network.dimension} dimensions "
                "it is far too large, and comparable only with figures of as many",
                stacklevel=1,
            )
        if self.keep:
            assert reference.features is not None
            more, how = _by_features(torch.cat(self.features), reference.features, seed)
            kernel = "kid" if name == "fid" else f"kd{short}"
            names = {"kernel": kernel, "precision": f"precision{short}", "recall": f"recall{short}"}
            figures |= {f"{prefix}{names[what]}": value for what, value in more.items()}
            told |= how
        if self.logits and prefix == "g":
            from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

            score = isc_features_to_metric(torch.cat(self.logits), SPLITS, True, seed)
            figures["inception_score"] = score[KEY_METRIC_ISC_MEAN]
            told["inception_score"] = f"torch-fidelity's, mean over {SPLITS} splits"
        return figures, told


def _by_features(made: Tensor, real: Tensor, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """torch-fidelity's kernel distance, precision and recall."""
    from torch_fidelity import metric_kid, metric_prc

    size = min(SUBSET, len(made), len(real))
    kernel = metric_kid.kid_features_to_metric(
        made, real, kid_subsets=SUBSETS, kid_subset_size=size, rng_seed=seed, verbose=False
    )
    figures = {"kernel": kernel[metric_kid.KEY_METRIC_KID_MEAN]}
    told = {"kernel": f"torch-fidelity's, cubic, mean over {SUBSETS} subsets of {size}"}
    if min(len(made), len(real)) > NEIGHBOURS:
        near = metric_prc.prc_features_to_metric(
            made, real, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False
        )
        figures |= {name: near[name] for name in (metric_prc.KEY_METRIC_PRECISION, metric_prc.KEY_METRIC_RECALL)}
        told["neighbours"] = f"torch-fidelity's precision and recall, {NEIGHBOURS} nearest"
    return figures, told


@torch.no_grad()
def reconstruction_distance(
    model: UnifiedLatents,
    source: Source,
    features: ImageFeatures,
    reference: Reference | None,
    *,
    data: dict[str, Any],
    split: str = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    decoder_steps: int | None = None,
    seed: int = 0,
    unfinished: Path | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    on_image: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Distances of reconstructions from the same images, {"figures", "protocol"}, ready for JSON.

    Args:
        model: in eval mode, of images.
        source: the split's images, of which the first `limit` are reconstructed.
        features: the network.
        reference: of the same images; with its features, there are more figures than the Fréchet distance. None in
            processes that only help.
        batch_size, decoder_steps: as for `rate_distortion`.
        unfinished: a folder in which to put down how far it is, and to go on if it was stopped there; not of a
            reference with features.
        processes: which take turns, a batch each; the figures are the first one's, {} the others'.
        on_image: told how many are done.
    """
    contract = model.contract
    assert not contract.video
    made = Collected(features, reference is not None and reference.features is not None)
    left_out: dict[int, str] = {}
    batch_size = batch_size or default_batch(contract)
    sampling = contract.sampling_with("decoder", decoder_steps, None)
    protocol = Protocol(
        compared="reconstructions, with the same images",
        **features.protocol,
        data=data,
        split=split,
        reference_sha256=reference and reference.sha256,
        decoder_sampler=sampling.sampler,
        decoder_steps=sampling.steps,
        seed=seed,
        noise=NOISE,
        batch_size=batch_size,
        dtype="float32",
    )
    progress = made.progress(unfinished, model, protocol, processes)
    start = 0
    for number, batch in enumerate(in_order(source, batch_size, limit)):
        left_out |= batch["left_out"]
        if batch["images"] > progress.done and number % processes.world_size == processes.rank:
            generator = torch.Generator(model.device).manual_seed(derive_seed(seed, "reconstructions", start))
            x, text = batch["x"].to(model.device), batch["text"] and batch["text"].to(model.device)
            made.add(model.reconstruct(x, decoder_steps, generator, batch["label"].to(model.device), text=text))
            progress.tell(batch["images"])
        start = batch["images"]
        on_image(start)
    made.collect(processes)
    if reference is None:
        progress.finish()
        return {"figures": {}, "protocol": {}}
    figures, told = made.figures("r", reference, seed)
    progress.finish()
    protocol = Protocol(
        figures=list(figures), **protocol, **told, samples=made.statistics.count, **count_left_out(left_out)
    )
    return {"figures": figures, "protocol": protocol}


@torch.no_grad()
def sample_distance(
    model: UnifiedLatents,
    source: Source,
    features: ImageFeatures,
    reference: Reference | None,
    *,
    data: dict[str, Any],
    name: str,
    samples: int,
    batch_size: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    unfinished: Path | None = None,
    keep: Callable[[Tensor], None] | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    on_image: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Distances of samples from a reference, {"figures", "protocol"}, ready for JSON.

    A model that takes classes or captions is told those of the source's examples, taken at even distances over its
    order, so that classes are as frequent as there.

    Args:
        model: in eval mode, of images, with a base.
        source: where classes and captions come from.
        reference: of the reference's images; with its features, there are more figures than the Fréchet distance. None
            in processes that only help.
        name: of the reference, a split or a file.
        samples: how many to draw.
        batch_size: 64 if None.
        steps, guidance: of the base; the spec's if None; without classes and captions there is no guidance.
        unfinished: as for `reconstruction_distance`.
        keep: told the samples, uint8 (B, C, H, W); a folder of `unfinished` would keep some from it.
        processes: as for `reconstruction_distance`.
        on_image: told how many are done.

    Raises:
        ValueError: a model without what samples, or fewer than two samples.
    """
    contract = model.contract
    assert not contract.video and not (keep and (unfinished or processes.world_size > 1))
    network = model.prior if contract.single_stage else model.base
    if network is None:
        raise ValueError("this model has no base: its second stage was not trained")
    if samples < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 samples, not {samples}")
    batch_size = batch_size or default_batch(contract)
    conditional = bool(network.num_classes) or network.takes_text
    if guidance not in (None, 1) and not conditional:
        raise ValueError("guidance leans towards a class or a caption: this model's base takes neither")
    made = Collected(features, reference is not None and reference.features is not None)
    base, decoder = contract.sampling_with("base", steps, guidance), contract.sampling["decoder"]
    protocol = Protocol(
        compared="samples",
        **features.protocol,
        data=data,
        reference=name,
        reference_images=reference and reference.images,
        reference_sha256=reference and reference.sha256,
        samples=samples,
        labels="of the reference's examples, at even distances" if conditional else "none",
        base_sampler=base.sampler,
        base_steps=base.steps,
        guidance=base.guidance if conditional else 1.0,
        guidance_interval=list(base.guidance_interval) if conditional and base.guidance_interval else None,
        decoder_sampler=decoder.sampler,
        decoder_steps=decoder.steps,
        seed=seed,
        noise=NOISE,
        batch_size=batch_size,
        dtype="float32",
    )
    progress = made.progress(unfinished, model, protocol, processes)
    for start in range(processes.rank * batch_size, samples, batch_size * processes.world_size):
        if start < progress.done:
            continue
        count = min(batch_size, samples - start)
        generator = torch.Generator(model.device).manual_seed(derive_seed(seed, "samples", start))
        labels, text = None, None
        if conditional:
            told = [_example(source, i, samples) for i in range(start, start + count)]
            if network.num_classes:
                labels = torch.tensor([example.label for example in told], device=model.device)
            if network.takes_text:
                text = _captions(told, source).to(model.device)
        drawn = model.sample(
            count, labels, guidance=guidance if conditional else None, steps=steps, generator=generator, text=text
        )
        made.add(drawn)
        if keep:
            keep(to_uint8(drawn))
        progress.tell(start + count)
        on_image(start + count)
    made.collect(processes)
    if reference is None:
        progress.finish()
        return {"figures": {}, "protocol": {}}
    figures, how = made.figures("g", reference, seed)
    progress.finish()
    return {"figures": figures, "protocol": Protocol(figures=list(figures), **protocol, **how)}


def _example(source: Source, number: int, samples: int) -> Sample:
    """Example `number` of `samples` that are spread evenly over the source, the next one if it cannot be read."""
    size = len(source)
    index = number * size // samples if samples <= size else number % size
    for step in range(size):
        try:
            return source[(index + step) % size]
        except Unreadable:
            if not source.skips_unreadable:
                raise
    raise ValueError(f"none of the {size} examples can be read")


def _captions(examples: list[Sample], source: Source) -> Text:
    captions = [example.text for example in examples if example.text is not None]
    assert len(captions) == len(examples)
    return pad(captions, source.contract.text_tokens)
