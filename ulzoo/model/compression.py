"""Latents as files: `compress` and `decompress`, a progressive codec along the prior's reverse process.

Not in the paper: its ELBO bounds the bits of the latent, and channel simulation (Theis et al. 2022, arXiv 2206.08889)
writes about as many. Larger images are coded whole, with the network's predictions blended from overlapping tiles.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ulzoo.coding.codec import Codec, index_bits
from ulzoo.coding.grid import InformationGrid
from ulzoo.coding.process import CodedProcess, StepIndices
from ulzoo.coding.randomness import SharedRandomness
from ulzoo.coding.simulation import Rule, huffman_lengths
from ulzoo.coding.stream import (
    MAX_PIXELS,
    MAX_SEED,
    MAX_SIDE,
    DamagedStream,
    Header,
    read_header,
    read_indices,
    write_stream,
)
from ulzoo.diffusion import ExampleNoise, IndependentNoise, Noise, independent_noise
from ulzoo.files.tensor_file import tensors_sha256
from ulzoo.model.arguments import check, check_images
from ulzoo.model.codec_network import (
    OVERLAP,
    codec_network,
    denoiser,
    encode_clean,
    latent_size,
    same_noise,
    sample_rest,
)
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Contract
from ulzoo.model.denoisers import check_finite
from ulzoo.model.rate_control import ControlValue
from ulzoo.model.tiling import decode_tiled

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents

RULES = {"projection": Rule.PROJECTION, "poisson": Rule.POISSON}


class CompressingModel(nn.Module):
    """The part of `UnifiedLatents` that writes and reads streams.

    Attributes:
        codec: measured on training data, part of the export; None in a model without.
    """

    contract: Contract
    codec: Codec | None = None

    @torch.no_grad()
    def compress(
        self,
        x: Tensor,
        *,
        seed: int = 0,
        max_bits: int | None = None,
        rule: str = "projection",
        loss_factor: ControlValue | None = None,
        bias: ControlValue | None = None,
    ) -> list[bytes]:
        """x -> one stream for each example: the latent z_0 in about as many bits as its rate.

        Args:
            x: (B, C, *size) in [-1, 1]; images may be larger than the model's.
            seed: seed of the randomness that streams share with their decoder.
            max_bits: largest size of a stream, which then ends after fewer steps; None for no limit.
            rule: how indices are chosen, "projection" or "poisson"; see `ulzoo.coding.simulation.Rule`.
            loss_factor: see `RateOptions`; streams contain it, rounded to a thousandth of the range.
            bias: the same.

        Raises:
            ValueError: the model has no codec, x has another shape, or `max_bits` is less than the header.
        """
        model, codec = _model(self), self._codec()
        check_images(x, self.contract, model.device)
        check(self.contract, model.device, {"n": len(x), "loss_factor": loss_factor, "bias": bias})
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed must be an integer of at least 0 and below 2^63, got {seed!r}")
        size = None if tuple(x.shape[2:]) == self.contract.size else (x.shape[2], x.shape[3])
        if size and (max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS):
            raise ValueError(f"images have at most {MAX_PIXELS:,} pixels, got {size[0]} × {size[1]}")
        streams: list[bytes] = []
        name = self._stream_hash()
        levels = model.quantize_rate(Conditions(loss_factor=loss_factor, bias=bias), len(x))
        for rows in self.contract.batches(len(x), None):
            rate = model.dequantize_rate(levels[rows])
            z_clean = encode_clean(model, x[rows], rate)
            denoise = denoiser(model, codec_network(model), z_clean.shape[2:], rate)
            information = codec.grid.information(denoise, z_clean, generator=same_noise(len(z_clean), model.device))
            plans = [codec.plan(bits, RULES[rule]) for bits in information.tolist()]
            process = CodedProcess(denoise, codec.grid, SharedRandomness(name, seed))
            indices, z_0 = process.encode(z_clean, plans, index_bits=codec.index_bits, rule=RULES[rule])
            check_finite(z_0, "codec's network")
            for plan, steps, control in zip(plans, indices, levels[rows], strict=True):
                header = Header(name, seed, RULES[rule], plan, plan.steps, size, rate=control)
                streams.append(write_stream(header, steps, codec.code(RULES[rule]), max_bits)[0])
        return streams

    @torch.no_grad()
    def decompress(
        self,
        streams: Sequence[bytes],
        *,
        max_bits: int | None = None,
        steps: int | None = None,
        generator: Noise | None = None,
    ) -> Tensor:
        """Streams of images of one size -> x in [-1, 1], (B, C, *size).

        Args:
            streams: as `compress` returns; with `max_bits`, they may be truncated anywhere behind the header.
            max_bits: use only so many bits of each stream; the base samples what they do not determine.
            steps: network evaluations of the decoder; its own if None.
            generator: source of the sampling noise; None for noise that the stream determines.

        Raises:
            DamagedStream: a `ValueError` with the number of the stream: damaged, truncated, or of another model.
        """
        model = _model(self)
        if model.required_context_frames:
            raise ValueError("this model's decoder needs context frames, which streams do not contain")
        _check_max_bits(max_bits)
        opened = self._open(streams)
        headers = [header for header, _ in opened]
        noise = _stream_noise(headers, generator, model.device)
        z_0 = self._replay(streams, opened, max_bits, noise)
        parts = []
        for rows in self.contract.batches(len(z_0), None):
            rate = model.dequantize_rate([header.rate for header in headers[rows]])
            part = noise.part(rows)
            if headers[0].size is None:
                loss_factor, bias = rate.loss_factor, rate.bias
                x = model.decode(z_0[rows], steps=steps, generator=part, loss_factor=loss_factor, bias=bias)
                parts.append(x)
            else:
                x = decode_tiled(model, z_0[rows], overlap=OVERLAP, steps=steps, generator=part, conditions=rate)
                parts.append(x[..., : headers[0].size[0], : headers[0].size[1]])
        return torch.cat(parts)

    @torch.no_grad()
    def decompress_latents(
        self, streams: Sequence[bytes], *, max_bits: int | None = None, generator: Noise | None = None
    ) -> Tensor:
        """Streams -> z_0, (B, c, *latent_size), as `decompress` decodes it; the arguments are the same."""
        _check_max_bits(max_bits)
        opened = self._open(streams)
        noise = _stream_noise([header for header, _ in opened], generator, _model(self).device)
        return self._replay(streams, opened, max_bits, noise)

    def _replay(
        self, streams: Sequence[bytes], opened: Sequence[tuple[Header, int]], max_bits: int | None, noise: ExampleNoise
    ) -> Tensor:
        """z_0 of streams of one size, whose headers are open."""
        model, codec = _model(self), self._codec()
        headers = [header for header, _ in opened]
        if len({header.size for header in headers}) != 1:
            raise ValueError("streams must be one or more, of images of one size")
        indices: list[list[StepIndices]] = []
        for n, (stream, (header, start)) in enumerate(zip(streams, opened, strict=True)):
            content = stream if max_bits is None else stream[: max(max_bits // 8, start)]
            code = codec.code(header.rule)
            with _numbered(n, len(streams)):
                indices.append(read_indices(content, header, start, code, prefix=max_bits is not None))
        shape = (self.contract.latent_channels, *latent_size(headers[0].size, self.contract))
        z_0, reached = torch.empty(len(headers), *shape, device=model.device), [0.0] * len(headers)
        for seed in sorted({header.seed for header in headers}):
            rows = [n for n, header in enumerate(headers) if header.seed == seed]
            for part in self.contract.batches(len(rows), None):
                batch = rows[part]
                plans = [headers[n].plan for n in batch]
                rate = model.dequantize_rate([headers[n].rate for n in batch])
                denoise = denoiser(model, codec_network(model), shape[1:], rate)
                process = CodedProcess(denoise, codec.grid, SharedRandomness(headers[0].model, seed))
                z_t, levels = process.replay([indices[n] for n in batch], plans, shape, model.device)
                z_0[batch] = z_t
                for n, level in zip(batch, levels, strict=True):
                    reached[n] = level
        for part in self.contract.batches(len(headers), None):
            rate = model.dequantize_rate([header.rate for header in headers[part]])
            z_0[part] = sample_rest(model, z_0[part], reached[part], noise.part(part), rate)
        return check_finite(z_0, "codec's network")

    def stream_sizes(self, streams: Sequence[bytes]) -> list[tuple[int, ...]]:
        """The sizes of the images or clips of streams. Raises DamagedStream if a header cannot be read."""
        return [header.size or self.contract.size for header, _ in self._open(streams)]

    def _codec(self) -> Codec:
        if self.codec is None:
            raise ValueError("this model has no codec: `ulzoo export MODEL --codec --out FILE` measures one")
        return self.codec

    def _stream_hash(self) -> str:
        """The hash by which streams name this model: of the codec and the weights of its network."""
        return self._codec().hash(tensors_sha256(codec_network(_model(self)).state_dict()))

    def _open(self, streams: Sequence[bytes]) -> list[tuple[Header, int]]:
        """The header of each stream and its length. Raises DamagedStream."""
        model, opened = self._stream_hash(), []
        for number, stream in enumerate(streams):
            with _numbered(number, len(streams)):
                if not isinstance(stream, bytes | bytearray | memoryview):
                    raise TypeError(f"streams must be bytes, got {type(stream).__name__}")
                header, start = read_header(bytes(stream))
                if header.model != model:
                    raise DamagedStream(f"compressed by another model ({header.model}, not {model})")
                if (header.size and self.contract.video) or len(header.rate) != len(self.contract.rate_controls):
                    raise DamagedStream("damaged, its header is not of this model")
                opened.append((header, start))
        return opened


@torch.no_grad()
def measure_codec(model: "UnifiedLatents", images: Sequence[Tensor]) -> Codec:
    """The codec of a trained model, from batches of training images, each (B, C, *size).

    Raises:
        ValueError: the model has no network to code with.
    """
    network = codec_network(model)
    denoise = denoiser(model, network, model.contract.latent_size)
    generator = torch.Generator(model.device).manual_seed(0)
    latents = [model.encode(x, generator=generator) for x in images]
    schedule = network.diffusion.schedule
    ends = schedule.logsnr_min, schedule.logsnr_max
    grid = InformationGrid.measure(denoise, latents, ends, generator=generator)
    bits = index_bits(model.contract.latent_dimensions)
    codec = Codec(grid, bits, (*range(1, bits + 1), bits))
    process = CodedProcess(denoise, grid, SharedRandomness("code lengths", 0))
    indices: list[int] = []
    for z_clean in latents:
        information = grid.information(denoise, z_clean, generator=generator)
        plans = [codec.plan(value, Rule.POISSON) for value in information.tolist()]
        chosen, _ = process.encode(z_clean, plans, index_bits=bits, rule=Rule.POISSON)
        indices += chain.from_iterable(chain.from_iterable(chosen))
    return Codec(grid, bits, huffman_lengths(indices, bits))


def _model(model: nn.Module) -> "UnifiedLatents":
    return cast("UnifiedLatents", model)


def _check_max_bits(max_bits: object) -> None:
    if max_bits is not None and (isinstance(max_bits, bool) or not isinstance(max_bits, int) or max_bits < 1):
        raise ValueError(f"max_bits must be an integer of at least 1, got {max_bits!r}")


def _stream_noise(headers: Sequence[Header], generator: Noise | None, device: torch.device) -> ExampleNoise:
    """The noise of sampling: from a generator, or from the headers, which every prefix contains."""
    if generator is not None:
        return independent_noise(generator, len(headers), device)
    seeds = [(header.plan.steps << 20 ^ header.seed) % 2**32 for header in headers]
    return IndependentNoise(seeds, 0, device=device)


@contextmanager
def _numbered(number: int, count: int) -> Iterator[None]:
    """Put the number of the stream, of several, before an error's message."""
    try:
        yield
    except DamagedStream as error:
        raise DamagedStream(error.reason, number, count) from None
