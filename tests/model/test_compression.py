"""Compression by the released model: sizes, exact replay, prefixes, larger images, what is refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import ulzoo
from ulzoo.coding.codec import Codec
from ulzoo.coding.grid import InformationGrid
from ulzoo.coding.process import CodedProcess
from ulzoo.coding.simulation import Rule, huffman_lengths
from ulzoo.coding.stream import DamagedStream, read_header
from ulzoo.data import in_order
from ulzoo.media.pixels import psnr
from ulzoo.model.codec_network import codec_network
from ulzoo.model.compression import measure_codec
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model, open_source


@pytest.fixture(scope="module")
def released() -> UnifiedLatents:
    return ulzoo.load("released:emoji32_tiny")


@pytest.fixture(scope="module")
def images(released: UnifiedLatents) -> Tensor:
    return next(in_order(open_source(released.config, "val"), 2))["x"]


def untrained() -> UnifiedLatents:
    """A small model with random weights."""
    model = compile_model(ulzoo.load_spec("tests/tiny.yaml")).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.codec = Codec(InformationGrid((-10.0, 0.0, 2.0, 5.0)), 4, huffman_lengths([0, 3, 9], 4))
    return model


@pytest.fixture(scope="module")
def model() -> Iterator[UnifiedLatents]:
    """It plans a few steps, although its latents contain many bits."""
    with pytest.MonkeyPatch.context() as patch:
        model = untrained()
        bits = model.rate(torch.zeros(1, *model.contract.shape), samples=8).item()
        patch.setattr("ulzoo.coding.codec.INFORMATION_PER_BIT", dict.fromkeys(Rule, 40 / bits))
        yield model


@pytest.fixture(scope="module")
def x(model: UnifiedLatents) -> Tensor:
    return torch.rand(3, *model.contract.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def streams(model: UnifiedLatents, x: Tensor) -> list[bytes]:
    return model.compress(x)


def test_the_released_model(released: UnifiedLatents, images: Tensor) -> None:
    """Sizes are about the rate, images about those of the true z_0, and longer prefixes are better."""
    streams = released.compress(images)
    rate = released.rate(images, samples=16, generator=torch.Generator().manual_seed(0)).mean().item()
    assert 8 * sum(len(stream) - 12 for stream in streams) / len(streams) < 1.25 * rate
    decoded = released.decompress(streams)
    true = released.reconstruct(images, generator=torch.Generator().manual_seed(0))
    assert psnr(decoded, images).mean() > psnr(true, images).mean() - 1.2
    prefix = psnr(released.decompress(streams, max_bits=8 * 40), images).mean()
    assert 12 < prefix < psnr(decoded, images).mean() - 1


@pytest.mark.parametrize("rule", ["projection", "poisson"])
def test_the_decoder_repeats_the_encoder(
    rule: str, model: UnifiedLatents, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents: list[Tensor] = []
    encode = CodedProcess.encode

    def recorded(*args: object, **options: object) -> object:
        indices, z_0 = encode(*args, **options)  # type: ignore[arg-type]
        latents.append(z_0)
        return indices, z_0

    monkeypatch.setattr(CodedProcess, "encode", recorded)
    streams = model.compress(x, seed=9, rule=rule)
    assert torch.equal(model.decompress_latents(streams), latents[0])
    assert read_header(streams[0])[0].seed == 9
    assert torch.equal(model.decompress(streams), model.decompress(streams))  # the stream determines all noise


def test_machines_that_compute_differently_decode_the_same(model: UnifiedLatents, streams: list[bytes]) -> None:
    z_0 = model.decompress_latents(streams)
    alone = torch.cat([model.decompress_latents([stream]) for stream in streams])
    assert (alone - z_0).abs().max() < 1e-3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        torch.set_flush_denormal(True)
        assert (model.decompress_latents(streams) - z_0).abs().max() < 1e-3
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def test_a_decoder_in_bf16_gets_the_same_latents(streams: list[bytes]) -> None:
    model = untrained()
    z_0 = model.decompress_latents(streams[:1])
    assert model.decoder is not None
    model.decoder.to(torch.bfloat16)
    assert torch.equal(model.decompress_latents(streams[:1]), z_0)
    assert model.decompress(streams[:1]).isfinite().all()


def test_a_stream_depends_on_its_image_and_the_seed(model: UnifiedLatents, x: Tensor, streams: list[bytes]) -> None:
    [alone] = model.compress(x[1:2])
    assert len(alone) == len(streams[1]) and alone[:9] == streams[1][:9]
    assert model.compress(x[1:2], seed=1)[0][12:] != alone[12:]


def test_prefixes(model: UnifiedLatents, x: Tensor, streams: list[bytes]) -> None:
    assert torch.equal(model.decompress(streams, max_bits=10**6), model.decompress(streams))
    [short] = model.compress(x[:1], max_bits=120)
    assert 8 * len(short) <= 120
    z_0 = model.decompress_latents([streams[0]], max_bits=112)  # its header is shorter by a byte
    assert torch.allclose(model.decompress_latents([short]), z_0, atol=1e-4)
    nothing = model.decompress_latents(streams, max_bits=1)
    assert nothing.isfinite().all() and not torch.allclose(nothing, model.decompress_latents(streams), atol=0.1)


def test_images_of_other_sizes(model: UnifiedLatents, x: Tensor) -> None:
    height, width = model.contract.size
    larger = torch.cat([x[:1], x[1:2]], dim=3)[:, :, : height - 2, : width + 3]
    for image in (larger, x[:1, :, :5, :7]):
        streams = model.compress(image)
        assert model.stream_sizes(streams)[0] == tuple(image.shape[2:])
        assert model.decompress(streams).shape == image.shape
        with pytest.raises(ValueError, match="of images of one size"):
            model.decompress([*streams, *model.compress(x[:1])])


def test_what_is_refused(model: UnifiedLatents, x: Tensor, streams: list[bytes]) -> None:
    damaged = streams[1][:14] + bytes([streams[1][14] ^ 64]) + streams[1][15:]
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: model.decompress([streams[0], damaged]), "stream 1: damaged, its indices do not match their CRC"),
        (lambda: model.decompress([streams[0][:-2]]), "truncated or damaged, .* steps; a prefix can be decoded"),
        (lambda: model.decompress([b"anything"]), "not a stream of ulzoo compress"),
        (lambda: model.decompress([]), "one or more"),
        (lambda: model.decompress(streams, max_bits=0), "max_bits must be an integer of at least 1"),
        (lambda: model.compress(x, max_bits=40), "at least 104 bits, its header, not 40"),
        (lambda: model.compress(x, seed=-1), "seed must be an integer"),
        (lambda: model.compress(x, rule="best"), "rule must be one of projection, poisson"),
        (lambda: model.compress(x * 255), r"x must be in \[-1, 1\]"),
        (lambda: model.compress(x[0]), "x must have shape"),
        (lambda: model.compress(x[:, :, :0]), "at least one example"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="streams must be bytes, got str"):
        model.decompress(["text"])  # type: ignore[list-item]


def test_streams_of_another_model(streams: list[bytes]) -> None:
    other = untrained()
    assert other.prior is not None
    next(other.prior.parameters()).data[0] += 1e-3
    with pytest.raises(DamagedStream, match="compressed by another model"):
        other.decompress(streams)


def test_models_that_cannot_compress(model: UnifiedLatents, x: Tensor) -> None:
    fresh = untrained()
    fresh.codec = None
    with pytest.raises(ValueError, match=r"this model has no codec: `ulzoo export MODEL --codec"):
        fresh.compress(x)
    fresh.prior = fresh.base = None
    with pytest.raises(ValueError, match="neither a prior nor a base"):
        codec_network(fresh)
    fresh.contract = replace(fresh.contract, decodes_clean=True)
    with pytest.raises(ValueError, match="takes clean latents"):
        codec_network(fresh)


def test_a_codec_of_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ulzoo.coding.grid.LEVELS", 9)
    model = compile_model(ulzoo.load_spec("tests/tiny_video.yaml")).eval()
    x = torch.rand(2, *model.contract.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model.codec = measure_codec(model, [x])
    assert isinstance(model.codec.grid, InformationGrid) and model.codec.grid.logsnrs[-1] == 5
    streams = model.compress(x)
    assert model.decompress_latents(streams).shape == (2, *model.contract.latent_shape)
    if not model.required_context_frames:
        assert model.decompress(streams, max_bits=8).shape == x.shape
