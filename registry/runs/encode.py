"""`ulzoo encode`: the latents of a data set, encoded once, for training bases on them."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ulzoo.data import Source
from ulzoo.data.latents import SUFFIX, Latents, finished, write_latents
from ulzoo.data.prepare.pack import alone_in
from ulzoo.data.source import Sample, Unreadable
from ulzoo.data.storage.manifest import Manifest, Shard, SplitSummary
from ulzoo.files.atomic import remove_unfinished, write_atomically
from ulzoo.media.pixels import from_uint8
from ulzoo.model.contract import Stage
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.spec.schema import Spec

LatentDtype = Literal["bfloat16", "float16", "float32"]


def encode(
    model: UnifiedLatents,
    spec: Spec,
    source: Source,
    out: Path,
    split: str,
    *,
    dtype: LatentDtype = "bfloat16",
    batch_size: int = 64,
    images_per_shard: int = 4096,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> SplitSummary:
    """Write z_clean of every image of a source, `OUT/SPLIT-00000.safetensors`, ..., and `manifest.json`.

    Where the source lets its images be mirrored, the mirrored ones are encoded too. Shards are written atomically, and
    one that was written with the same settings is not made again.

    Args:
        model: whose encoder to use, on its device, in float32.
        spec: of the model.
        source: images in order, of the spec's data.
        out: the folder; made if there is none.
        split: "train" or "val".
        dtype: of the latents and of captions.
        batch_size: images at once.
        images_per_shard: images in a file.
        on_progress: told how many images of how many are done.

    Raises:
        ValueError: a model whose latents cannot be kept, other settings than those the folder was begun with, latents
            beyond the range of `dtype`, or no image that can be read.
    """
    _check_keepable(model)
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "encoder_sha256": encoder_hash(spec, model),
        "model": spec.name,
        "dtype": dtype,
        "flips": source.hflip,
        "images_as": asdict(source.contract),
        "latent_shape": list(model.contract.latent_shape),
        "data": _described(spec),
        "images": len(source),
        "images_per_shard": images_per_shard,
    }
    settings = json.loads(json.dumps(settings))  # as it is read again
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    with alone_in(out):
        manifest = Manifest(out, "images", SUFFIX)
        manifest.begin(split, settings)
        remove_unfinished(out, rf"{split}-\d+\{SUFFIX}")
        encoder = _Encoder(model, source, getattr(torch, dtype), batch_size, lambda n: on_progress(n, len(source)))
        shards = []
        for number, begin in enumerate(range(0, len(source), images_per_shard)):
            on_progress(begin, len(source))
            path = out / f"{split}-{number:05d}{SUFFIX}"
            shard = finished(path, digest)
            if shard is None:
                end = min(begin + images_per_shard, len(source))
                shard = encoder.write(path, range(begin, end), digest)
            shards.append(shard)
        on_progress(len(source), len(source))
        summary = manifest.finish(split, shards)
    if not summary.count:
        key, reason = next(iter(summary.failures.items()))
        raise ValueError(f"{out}: not one of {len(source)} images of {split} can be read; the first, {key}: {reason}")
    return summary


def encoder_hash(spec: Spec, model: UnifiedLatents) -> str:
    """SHA-256 in hex of all that makes z_clean of an image: the encoder's keys and weights, and the shapes."""
    contract = model.contract
    keys = {key: value for key, value in spec.encoder.model_dump(mode="json").items() if key != "path"}
    digest = hashlib.sha256(json.dumps([keys, contract.shape, contract.latent_shape], sort_keys=True).encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_encoded(spec: Spec, model: UnifiedLatents, stages: Collection[Stage], sources: Mapping[str, Source]) -> None:
    """Raise SpecError where a source of latents is of another encoder or other data than this model's."""
    for path, source in sources.items():
        if not isinstance(source, Latents):
            continue
        if "latents" in stages:
            order = "--stage latents first, then `ulzoo encode`, then --stage base"
            raise spec.error(path, f"latents of an encoder that this very run trains: {order}")
        made, ours = source.settings["encoder_sha256"], encoder_hash(spec, model)
        if made != ours:
            whose = f"of {source.settings['model']}, SHA-256 {made[:12]}…; this run's: {ours[:12]}…"
            raise spec.error(f"{path}.path", f"{source.folder} holds latents of another encoder ({whose})")
        was, now = source.settings["data"], _described(spec)
        if keys := [key for key in {**was, **now} if was.get(key) != now.get(key)]:
            differ = "; ".join(f"data.{key} was {was.get(key)}, now {now.get(key)}" for key in keys)
            raise spec.error(f"{path}.path", f"{source.folder} holds latents of other data: {differ}")


def _described(spec: Spec) -> dict[str, Any]:
    """The data section, without what differs between machines."""
    return spec.data.model_dump(mode="json", exclude={"root", "download", "verify"})


class _Encoder:
    """Writes shards of z_clean."""

    def __init__(
        self,
        model: UnifiedLatents,
        source: Source,
        dtype: torch.dtype,
        batch_size: int,
        on_image: Callable[[int], object],
    ) -> None:
        self.model, self.source, self.dtype, self.batch_size, self.on_image = model, source, dtype, batch_size, on_image

    def write(self, path: Path, indices: range, settings: str) -> Shard:
        z_clean: list[Tensor] = []
        samples: list[Sample] = []
        failures: dict[str, str] = {}
        for begin in range(0, len(indices), self.batch_size):
            some = self._read(indices[begin : begin + self.batch_size], failures)
            if some:
                z_clean.append(self._encode(some))
                samples += [sample._replace(pixels=torch.empty(0)) for _, sample in some]
            self.on_image(indices[: begin + self.batch_size][-1] + 1)
        texts = [self._rounded(sample.text, sample.key) for sample in samples if sample.text is not None]
        kept = torch.cat(z_clean) if z_clean else torch.empty(0, 1, *self.model.contract.latent_shape, dtype=self.dtype)
        labels, keys = [sample.label for sample in samples], [sample.key for sample in samples]
        write_atomically(path, lambda aside: write_latents(aside, kept, labels, keys, texts, failures, settings))
        return Shard.of(path, len(samples), failures)

    def _read(self, indices: range, failures: dict[str, str]) -> list[tuple[int, Sample]]:
        found = []
        for index in indices:
            try:
                found.append((index, self.source[index]))
            except Unreadable as error:
                if not self.source.skips_unreadable:
                    raise
                failures[str(index)] = str(error)
        return found

    def _encode(self, some: list[tuple[int, Sample]]) -> Tensor:
        """(B, 1 or 2, c, h, w): of the images and, where they may be mirrored, of their mirror images."""
        ways = [[sample.pixels for _, sample in some]]
        if self.source.hflip:
            ways.append([self.source.mirrored(index, sample).pixels for index, sample in some])
        with torch.inference_mode():
            made = [self.model.encode(from_uint8(torch.stack(pixels)).to(self.model.device)) for pixels in ways]
        return self._rounded(torch.stack(made, dim=1).cpu(), some[0][1].key)

    def _rounded(self, values: Tensor, key: str) -> Tensor:
        rounded = values.to(self.dtype)
        if not rounded.isfinite().all():
            raise ValueError(f"{key} or one after it: not within the range of {self.dtype}: use --dtype bfloat16")
        return rounded


def _check_keepable(model: UnifiedLatents) -> None:
    contract = model.contract
    if contract.video:
        raise ValueError("clips are drawn anew each time they are seen: latents are kept of images only")
    if contract.learned_variance:
        raise ValueError("this encoder draws z_clean anew each time (latent.variance: learned): it cannot be kept")
