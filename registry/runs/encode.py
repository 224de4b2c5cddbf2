"""`ulzoo encode`: encode a data set once, so that bases can be trained on its stored latents."""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from heapq import nlargest
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from ulzoo.data.fingerprint import PROBED, describe_change, fingerprint, stamp
from ulzoo.data.latents import SUFFIX, Latents, Origin, content_number, read_origin, write_latents
from ulzoo.data.source import Sample, Source, Unreadable, sample_content
from ulzoo.data.storage.manifest import Manifest, Shard, SplitSummary
from ulzoo.data.storage.output import output_file, writing_to
from ulzoo.data.storage.remote import StoragePath
from ulzoo.media.pixels import from_uint8
from ulzoo.model.contract import Stage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.spec.components import DATASETS
from ulzoo.registry.spec.schema import Spec

OPTIONS = {"loss_factor": "loss-factor", "bias": "bias"}
LatentDtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class EncodeOptions:
    """How latents are computed and stored.

    Attributes:
        dtype: of the stored latents and captions.
        batch_size: images per batch.
        images_per_shard: images per file.
    """

    dtype: LatentDtype = "bfloat16"
    batch_size: int = 64
    images_per_shard: int = 4096


def encode(
    model: UnifiedLatents,
    spec: Spec,
    source: Source,
    out: StoragePath,
    split: str,
    *,
    options: EncodeOptions | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> SplitSummary:
    """Write z_clean of all images of a source to `OUT/SPLIT-00000.safetensors`, ..., and `OUT/manifest.json`.

    If the source permits mirroring, the mirrored images are encoded too. Shards are written atomically; an existing
    shard with the same settings is kept.

    Args:
        model: a model with the encoder to use, which runs on the model's device in float32.
        spec: the spec of the model.
        source: images of the spec's data.
        out: the folder, created if necessary, or one in an object store.
        split: "train" or "val".
        options: precision and sizes.
        on_progress: progress callback, called with the number of images processed so far, and of all images.

    Raises:
        ValueError: the encoder is not deterministic, the folder has other settings, latents exceed the range of the
            dtype, or no image can be read.
    """
    options = options or EncodeOptions()
    _check_deterministic(model)
    identity = fingerprint(source).identity
    settings = {
        "encoder_sha256": encoder_hash(spec, model),
        "model": spec.name,
        "dtype": options.dtype,
        "flips": source.hflip,
        "images_as": asdict(source.contract),
        "latent_shape": list(model.contract.latent_shape),
        "data": spec.data_identity(),
        "fingerprint": identity,
        "images": len(source),
        "images_per_shard": options.images_per_shard,
        **model.default_rate,
    }
    settings = json.loads(json.dumps(settings))  # JSON types, to compare with the manifest
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    with writing_to(out, rf"{split}-\d+\{SUFFIX}"):
        manifest = Manifest(out, "images", SUFFIX)
        stored = manifest.splits.get(split, {}).get("settings", {}).get("fingerprint")
        if stored and (changes := describe_change(stored, identity)):
            images = f"{out}: contains latents of other images of {split}"
            raise ValueError(f"{images}: {'; '.join(changes)}; choose another --out")
        manifest.begin(split, settings)
        writer = _ShardWriter(model, source, options, lambda n: on_progress(n, len(source)))
        shards, examples = [], iter(source.list_examples(len(source)) or ())
        for number, begin in enumerate(range(0, len(source), options.images_per_shard)):
            on_progress(begin, len(source))
            path = out / f"{split}-{number:05d}{SUFFIX}"
            indices = range(begin, min(begin + options.images_per_shard, len(source)))
            files = stamp(islice(examples, len(indices)))
            origin = read_origin(path)
            if origin and origin.settings == digest and _is_current(origin, source, indices, files):
                shard = Shard.of(path, len(origin.content), origin.failures)
            else:
                shard = writer.write(path, indices, digest, files)
            shards.append(shard)
        on_progress(len(source), len(source))
        summary = manifest.finish(split, shards)
    if not summary.count:
        key, reason = next(iter(summary.failures.items()))
        raise ValueError(f"{out}: none of the {len(source)} images of {split} can be read; the first, {key}: {reason}")
    return summary


def encoder_hash(spec: Spec, model: UnifiedLatents) -> str:
    """SHA-256, in hex, of all that determines z_clean of an image: the encoder's keys and weights, and the shapes."""
    contract = model.contract
    keys = {key: value for key, value in spec.encoder.model_dump(mode="json").items() if key != "path"}
    digest = hashlib.sha256(json.dumps([keys, contract.shape, contract.latent_shape], sort_keys=True).encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_encoded(spec: Spec, model: UnifiedLatents, stages: Collection[Stage], sources: Mapping[str, Source]) -> None:
    """Raise SpecError if a source of latents was encoded by another encoder or from other images than the spec's data.

    Args:
        stages: the stages to train.
        sources: training data by key path.
    """
    for path, source in sources.items():
        if not isinstance(source, Latents):
            continue
        if "latents" in stages:
            order = "--stage latents first, then `ulzoo encode`, then --stage base"
            raise spec.error(path, f"latents of the encoder that this run is about to train: run {order}")
        stored, current = source.settings["encoder_sha256"], encoder_hash(spec, model)
        if stored != current:
            digests = f"of {source.settings['model']}, SHA-256 {stored[:12]}…; this run's: {current[:12]}…"
            raise spec.error(f"{path}.path", f"{source.folder} contains latents of another encoder ({digests})")
        for control, value in model.default_rate.items():
            encoded = source.settings.get(control)
            if not isinstance(encoded, float) or not math.isclose(encoded, value, rel_tol=1e-3, abs_tol=1e-3):
                message = f"contains latents of {control} {encoded}, but base.{control} is {value:g}"
                raise spec.error(f"{path}.path", f"{source.folder} {message}; encode them with --{OPTIONS[control]}")
        before, after = source.settings["data"], spec.data_identity()
        if keys := [key for key in {**before, **after} if before.get(key) != after.get(key)]:
            changes = "; ".join(f"data.{key} was {before.get(key)}, now {after.get(key)}" for key in keys)
            raise spec.error(f"{path}.path", f"{source.folder} contains latents of other data: {changes}")
        if changed := _changed_images(spec, source):
            raise spec.error(f"{path}.path", f"{source.folder} contains latents of other images: {changed}")


def _changed_images(spec: Spec, latents: Latents) -> str:
    """How the images of the spec's data differ from those that were encoded; "" if they do not.

    Besides their fingerprints, the content of the images that were written last is compared. It warns if the images
    are not on this machine, or if the latents are of an earlier version, which does not record them.
    """
    stored = latents.settings.get("fingerprint")
    if not isinstance(stored, dict):
        hint = "encode them again to be sure"
        warnings.warn(f"{latents.folder}: does not record its images, as in earlier versions: {hint}", stacklevel=3)
        return ""
    try:
        images = _open_unverified(spec)
    except ValueError as error:
        warnings.warn(f"{latents.folder}: cannot be compared with its images: {error}", stacklevel=3)
        return ""
    if changes := describe_change(stored, fingerprint(images).identity):
        return "; ".join(changes)
    examples = list(images.list_examples(len(images)) or ())
    latest = nlargest(PROBED, range(len(examples)), key=lambda index: examples[index].written)
    changed = sum(_read_content(images, index) != latents.recorded_content(index) for index in latest)
    return f"{changed} of the {len(latest)} images that were written last" if changed else ""


def _open_unverified(spec: Spec) -> Source:
    """The training images, without reading all of them once, except to find those that are skipped."""
    config = spec.locate_data(spec.data, "data")
    if getattr(config, "verify", False) and not getattr(config, "skip_unreadable", False):
        config = config.model_copy(update={"verify": False})
    return DATASETS.build(config, "train")


def _is_current(origin: Origin, source: Source, indices: range, files: str) -> bool:
    """Whether encoding the images `indices` of the source would give the shard with this origin.

    Images that could not be read are tried again. If files were written since, all images are compared by content.
    """
    failed = set(map(int, origin.failures))
    if any(_read_content(source, index) is not None for index in failed):
        return False
    if origin.files == files:
        return True
    readable = (index for index in indices if index not in failed)
    return [_read_content(source, index) for index in readable] == list(origin.content)


def _read_content(source: Source, index: int) -> int | None:
    """The `content_number` of an image; None if it cannot be read."""
    try:
        return content_number(source.content(index))
    except Unreadable:
        return None


class _ShardWriter:
    """Encodes images and writes shards of z_clean."""

    def __init__(
        self, model: UnifiedLatents, source: Source, options: EncodeOptions, on_image: Callable[[int], object]
    ) -> None:
        self.model, self.source, self.on_image = model, source, on_image
        self.dtype: torch.dtype = getattr(torch, options.dtype)
        self.batch_size = options.batch_size

    def write(self, path: StoragePath, indices: range, settings: str, files: str) -> Shard:
        """Write the images `indices` of the source to one shard, with the digests of the settings and of the files."""
        z_clean: list[Tensor] = []
        samples: list[Sample] = []
        contents: list[int] = []
        failures: dict[str, str] = {}
        for begin in range(0, len(indices), self.batch_size):
            batch = self._read(indices[begin : begin + self.batch_size], failures)
            if batch:
                z_clean.append(self._encode(batch))
                contents += [content_number(sample_content(sample)) for _, sample in batch]
                samples += [sample._replace(pixels=torch.empty(0)) for _, sample in batch]
            self.on_image(indices[: begin + self.batch_size][-1] + 1)
        texts = [self._round(sample.text, sample.key) for sample in samples if sample.text is not None]
        empty = torch.empty(0, 1, *self.model.contract.latent_shape, dtype=self.dtype)
        latents = torch.cat(z_clean) if z_clean else empty  # (N, 1 or 2, c, h, w)
        content: dict[str, Any] = {
            "labels": [sample.label for sample in samples],
            "keys": [sample.key for sample in samples],
            "texts": texts,
            "origin": Origin(settings, files, contents, failures),
        }
        with output_file(path) as file:
            write_latents(file, latents, **content)
            return Shard.of(file, len(samples), failures)

    def _read(self, indices: range, failures: dict[str, str]) -> list[tuple[int, Sample]]:
        """The readable samples with their indices; the reasons of the others are added to `failures`."""
        samples = []
        for index in indices:
            try:
                samples.append((index, self.source[index]))
            except Unreadable as error:
                if not self.source.skips_unreadable:
                    raise
                failures[str(index)] = str(error)
        return samples

    def _encode(self, batch: list[tuple[int, Sample]]) -> Tensor:
        """(B, 1 or 2, c, h, w): z_clean of the images and, if the source permits mirroring, of their mirror images."""
        views = [[sample.pixels for _, sample in batch]]
        if self.source.hflip:
            views.append([self.source.mirror(index, sample).pixels for index, sample in batch])
        with torch.inference_mode():
            z_clean = [self.model.encode(from_uint8(torch.stack(pixels)).to(self.model.device)) for pixels in views]
        return self._round(torch.stack(z_clean, dim=1).cpu(), batch[0][1].key)

    def _round(self, values: Tensor, key: str) -> Tensor:
        rounded = values.to(self.dtype)
        if not rounded.isfinite().all():
            raise ValueError(
                f"{key} or a later image: a latent exceeds the range of {self.dtype}; use --dtype bfloat16"
            )
        return rounded


def _check_deterministic(model: UnifiedLatents) -> None:
    """Raise ValueError unless an image always has the same z_clean."""
    contract = model.contract
    if contract.video:
        raise ValueError("training draws a new clip of a video each time, so only latents of images can be stored")
    if contract.learned_variance:
        raise ValueError("this encoder samples z_clean (latent.variance: learned), so it cannot be stored")
