"""`AutoencoderUL` in the place of `AutoencoderKL`: scripts and pipelines of diffusers, the model's own numbers."""

import gc
import importlib
import json
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ulzoo
from ulzoo.data import in_order
from ulzoo.diffusion import IndependentNoise, normal_kl
from ulzoo.model.tiling import decode_tiled, encode_tiled
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.registry.runs.export import save_export

diffusers = pytest.importorskip("diffusers")

from ulzoo.interop.diffusers import AutoencoderUL  # noqa: E402

PAGE = Path(__file__).parents[3] / "docs" / "diffusers.md"

VIT = "{kind: vit, patch: 4, width: 32, depth: 1, heads: 2}"
VARIANTS: dict[str, tuple[str, ...]] = {
    "diffusion decoder": (),
    "learned variance": ("latent.variance=learned", "sample.decoder.sampler=ddpm"),
    "regression decoder": (f"decoder={{kind: mse, backbone: {VIT}, weight: 50}}",),
    "final decoder": (f"final_decoder={{backbone: {VIT}}}", "train.decoder={steps: 4, batch_size: 8, lr: 1e-3}"),
}
PIXELS = (
    *("encoder={kind: identity}", "latent={channels: 3, downsample: [1, 1], logsnr: 10}"),
    *("prior=null", "decoder=null", "train.latents=null", f"base={{backbone: {VIT}}}"),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The export of a tiny model whose zero outputs are perturbed, as after training."""

    def export(*overrides: str, fixture: Callable = tiny) -> Path:
        spec, path = fixture(*overrides), tmp_path_factory.mktemp("export") / "model.safetensors"
        model = compile_model(spec)
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        save_export(path, model, spec, {})
        return path

    return export


@pytest.fixture(scope="module")
def released() -> AutoencoderUL:
    return AutoencoderUL.from_ulzoo("emoji32_tiny")


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=seeded()) * 2 - 1


# ------------------------------------------------------------------------------------------------ diffusers' scripts


def train_latent_diffusion(vae: Any, images: Tensor, labels: Tensor, steps: int) -> tuple[Any, list[float]]:
    """A loop as in diffusers' examples, for any autoencoder of theirs: a DiT on scaled latents, with its losses."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        num_layers=2,
        sample_size=vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1),
        patch_size=1,
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    )
    noise_scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    vae.requires_grad_(False)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=3e-3)
    transformer.train()
    losses = []
    for step in range(steps):
        rows = torch.arange(step * 16, (step + 1) * 16) % len(images)
        pixel_values = images[rows].to(dtype=vae.dtype)
        latents = vae.encode(pixel_values).latent_dist.sample()
        latents = latents * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),)).long()
        noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
        model_pred = transformer(noisy_latents, timestep=timesteps, class_labels=labels[rows]).sample
        loss = F.mse_loss(model_pred.float(), noise.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach().item())
    return transformer.eval(), losses


def autoencoder_kl() -> Any:
    torch.manual_seed(0)
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    sizes = {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "sample_size": 32}
    return diffusers.AutoencoderKL(**levels, **sizes, latent_channels=8, scaling_factor=1.0).eval()


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderUL"])
def test_an_unchanged_training_loop_and_pipeline_take_either_autoencoder(
    kind: str, released: AutoencoderUL, tmp_path: Path
) -> None:
    vae = released if kind == "AutoencoderUL" else autoencoder_kl()
    batch = next(in_order(open_source(ulzoo.load_spec("emoji32_tiny"), "val"), 64))
    transformer, losses = train_latent_diffusion(vae, batch["x"], batch["label"], 24)
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    pipeline = diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    samples = pipeline([0, 1], num_inference_steps=2, generator=seeded(), output_type="np").images
    assert samples.shape == (2, 32, 32, 3) and 0 <= samples.min() < samples.max() <= 1
    if kind == "AutoencoderUL":
        pipeline.save_pretrained(tmp_path)
        loaded = diffusers.DiTPipeline.from_pretrained(tmp_path)
        assert isinstance(loaded.vae, AutoencoderUL) and loaded.vae.config.scaling_factor == vae.config.scaling_factor


def test_scaled_latents_have_unit_variance(released: AutoencoderUL) -> None:
    x = next(in_order(open_source(ulzoo.load_spec("emoji32_tiny"), "val"), 327))["x"]
    z = released.encode(x).latent_dist.sample(seeded())
    config = released.config
    assert (z * config.scaling_factor).std().item() == pytest.approx(1, abs=0.01)
    assert ((z - config.shift_factor) * config.scaling_factor).mean().item() == pytest.approx(0, abs=0.01)
    measured = AutoencoderUL.from_ulzoo(model := ulzoo.load("emoji32_tiny"), images=x).config
    assert measured.scaling_factor == pytest.approx(config.scaling_factor, rel=1e-4)
    assert measured.shift_factor == pytest.approx(config.shift_factor, abs=1e-4)
    few = AutoencoderUL.from_ulzoo(model, images=x[:8])
    z = few.encode(x[:8]).latent_dist.sample(seeded())
    assert (z * few.config.scaling_factor).std().item() == pytest.approx(1, abs=0.02)


# ------------------------------------------------------------------------------------------------ the model's numbers


@pytest.mark.parametrize("variant", VARIANTS)
def test_reconstructions_are_the_models_bit_for_bit(variant: str, trained, x: Tensor, tmp_path: Path) -> None:
    path = trained(*VARIANTS[variant])
    model, vae = ulzoo.load(path), AutoencoderUL.from_ulzoo(path)
    vae.save_pretrained(tmp_path)
    loaded = AutoencoderUL.from_pretrained(tmp_path)
    expected = model.reconstruct(x, generator=seeded(1))
    for autoencoder in (vae, loaded):
        generator = seeded(1)
        z_0 = autoencoder.encode(x).latent_dist.sample(generator)
        assert torch.equal(autoencoder.decode(z_0, generator=generator).sample, expected)
        assert torch.equal(autoencoder(x, sample_posterior=True, generator=seeded(1)).sample, expected)
        streams = IndependentNoise([5, 6, 7], 0)
        z_0 = autoencoder.encode(x).latent_dist.sample(streams)
        decoded = autoencoder.decode(z_0, generator=streams, return_dict=False, steps=3)[0]
        assert torch.equal(decoded, model.reconstruct(x, steps=3, generator=IndependentNoise([5, 6, 7], 0)))
    z_0 = vae.encode(x).latent_dist.sample(seeded(2))
    assert torch.equal(z_0, model.noise_latents(model.encode(x, generator=(g := seeded(2))), generator=g))
    assert not any("prior" in name or "base" in name for name in loaded.state_dict())


def test_the_files_are_those_of_diffusers(trained, x: Tensor, tmp_path: Path) -> None:
    vae = AutoencoderUL.from_ulzoo(trained())
    vae.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderUL" and config["spec"]["name"] == "tiny"
    expected = {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 16, "force_upcast": False}
    assert expected.items() <= config.items() and len(config["block_out_channels"]) == 3
    assert AutoencoderUL.from_config(vae.config).config == vae.config
    half = AutoencoderUL.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    z_0 = half.encode(x.bfloat16()).latent_dist.sample(seeded())
    decoded = half.decode(z_0, generator=seeded()).sample
    assert half.dtype == z_0.dtype == decoded.dtype == torch.bfloat16
    reference = vae.decode(z_0.float(), generator=seeded()).sample
    torch.testing.assert_close(decoded.float(), reference, atol=0.1, rtol=0)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(vae.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        AutoencoderUL.from_pretrained(tmp_path)


def test_the_distribution_of_the_latent(trained, x: Tensor) -> None:
    path = trained()
    model, vae = ulzoo.load(path), AutoencoderUL.from_ulzoo(path)
    posterior = vae.encode(x).latent_dist
    alpha2 = torch.sigmoid(torch.tensor(model.contract.latent_logsnr))
    z_clean = model.encode(x)
    torch.testing.assert_close(posterior.mode(), alpha2.sqrt() * z_clean)
    torch.testing.assert_close(posterior.var, (1 - alpha2).expand_as(z_clean))
    torch.testing.assert_close(posterior.kl(), normal_kl(z_clean, model.contract.latent_logsnr))
    many = torch.stack([posterior.sample(seeded(i)) for i in range(100)])
    torch.testing.assert_close(many.mean(0), posterior.mean, atol=0.05, rtol=0)
    assert (many.std(0) / posterior.std).mean().item() == pytest.approx(1, abs=0.02)
    learned = AutoencoderUL.from_ulzoo(trained("latent.variance=learned")).encode(x).latent_dist
    many = torch.stack([learned.sample(seeded(i)) for i in range(100)])
    assert (learned.var > posterior.var.max()).all()
    assert (many.std(0) / learned.std).mean().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(many.std(0), learned.std, atol=0, rtol=0.3)
    reference = weakref.ref(vae)
    del vae
    gc.collect()
    assert reference() is None and posterior.sample().shape == (3, 4, 4, 4)


def test_the_encoder_is_differentiable_and_generators_of_images_are_independent(trained, x: Tensor) -> None:
    vae = AutoencoderUL.from_ulzoo(trained())
    x.requires_grad_()
    vae.encode(x).latent_dist.sample().square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    z_0 = vae.encode(x.detach()).latent_dist.mode().detach()
    together = vae.decode(z_0, generator=[seeded(i) for i in range(3)]).sample
    alone = torch.cat([vae.decode(z_0[i : i + 1], generator=[seeded(i)]).sample for i in range(3)])
    torch.testing.assert_close(together, alone)
    vae.enable_slicing()
    assert torch.equal(vae.decode(z_0, generator=[seeded(i) for i in range(3)]).sample, alone)
    torch.testing.assert_close(vae.encode(x.detach()).latent_dist.mode(), z_0)
    vae.disable_slicing()
    assert torch.equal(vae.decode(z_0, generator=[seeded(i) for i in range(3)]).sample, together)
    with pytest.raises(ValueError, match="there are 2 generators for 3 examples"):
        vae.decode(z_0, generator=[seeded(), seeded()])


def test_larger_images_are_tiled(trained, x: Tensor) -> None:
    path = trained()
    model, vae = ulzoo.load(path), AutoencoderUL.from_ulzoo(path)
    large = x.repeat(1, 1, 2, 3)[:, :, :, :-4]
    with pytest.raises(ValueError, match=r"expected shape \(B, 3, 16, 16\), got \(3, 3, 32, 44\); call enable_tiling"):
        vae.encode(large)
    with pytest.raises(ValueError, match=r"tile_overlap_factor must be in \[0, 1\), not 1"):
        vae.enable_tiling(1)
    vae.enable_tiling()
    assert (vae.tile_sample_min_size, vae.tile_latent_min_size, vae.tile_overlap_factor) == (16, 4, 0.5)
    z_0 = vae.encode(large).latent_dist.sample(seeded())
    assert z_0.shape == (3, 4, 8, 11)
    z_clean = encode_tiled(model, large, overlap=0.5).mean
    assert torch.equal(z_0, model.noise_latents(z_clean, generator=seeded()))
    decoded = vae.decode(z_0, generator=seeded(1)).sample
    assert decoded.shape == large.shape
    assert torch.equal(decoded, decode_tiled(model, z_0, overlap=0.5, generator=seeded(1)))
    vae.enable_slicing()
    torch.testing.assert_close(vae.decode(z_0, generator=seeded(1)).sample, decoded)
    vae.disable_tiling()
    with pytest.raises(ValueError, match="call enable_tiling"):
        vae.decode(z_0)


def test_what_it_refuses(trained, tiny_video, images: Path, x: Tensor) -> None:
    with pytest.raises(ValueError, match="this is the spec of a model of video clips"):
        AutoencoderUL.from_ulzoo(trained(fixture=tiny_video))
    with pytest.raises(ValueError, match="this is the spec of a model of pixels"):
        AutoencoderUL.from_ulzoo(trained(*PIXELS))
    path = trained()
    with pytest.raises(ValueError, match="there are no images to measure"):
        AutoencoderUL.from_ulzoo(path, images=x[:0])
    vae = AutoencoderUL.from_ulzoo(path)
    with pytest.raises(ValueError, match="from_uint8 converts"):
        vae.encode((x * 127).to(torch.uint8))
    absent = trained("data.root=/nowhere")
    with pytest.raises(ValueError, match=r"no data to measure .*give `images`"):
        AutoencoderUL.from_ulzoo(absent)
    assert AutoencoderUL.from_ulzoo(absent, images=x).config.scaling_factor > 0


def foreign(original: diffusers.AutoencoderKL, folder: Path, *overrides: str) -> tuple[str, ...]:
    """Overrides of the tiny spec whose autoencoder is one of diffusers."""
    original.save_pretrained(folder)
    keys = "block_out_channels: [8, 8, 8], layers_per_block: 1, norm_groups: 4, scaling_factor: 1.0"
    return (
        f"encoder={{kind: diffusers_autoencoder, path: {folder}, {keys}}}",
        "latent={channels: 8, downsample: [4, 4], logsnr: 20}",
        "prior=null",
        "decoder=null",
        "train.latents=null",
        *overrides,
    )


def test_latents_without_noise_have_none(trained, x: Tensor, tmp_path: Path) -> None:
    path = trained(*foreign(autoencoder_kl(), tmp_path, "latent.decoded=z_clean"))
    model, vae = ulzoo.load(path), AutoencoderUL.from_ulzoo(path)
    distribution = vae.encode(x).latent_dist
    assert torch.equal(distribution.sample(seeded(1)), model.encode(x))
    assert torch.equal(distribution.mode(), model.encode(x))
    reconstruction = vae(x, sample_posterior=True, generator=seeded(1)).sample
    assert torch.equal(reconstruction, model.reconstruct(x, generator=seeded(1)))


def test_a_foreign_autoencoder_in_a_spec_decodes_as_in_diffusers(trained, x: Tensor, tmp_path: Path) -> None:
    """The encoder `diffusers_autoencoder` and `AutoencoderUL` undo each other, but for the noise of z_0."""
    original = autoencoder_kl()
    path = trained(*foreign(original, tmp_path))
    vae = AutoencoderUL.from_ulzoo(path)
    model = ulzoo.load(path)
    with torch.no_grad():
        original.load_state_dict(model.encoder.autoencoder.state_dict())
        expected = original.encode(x).latent_dist.mean
        torch.testing.assert_close(vae.encode(x).latent_dist.mode(), expected, rtol=1e-3, atol=1e-3)
        decoded, reference = vae.decode(expected).sample, original.decode(expected).sample.clamp(-1, 1)
    torch.testing.assert_close(decoded, reference, rtol=1e-3, atol=1e-3)


def test_the_package_is_imported_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import ulzoo, ulzoo.interop, ulzoo.registry, sys; assert not {'torch', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "ulzoo.interop.diffusers")
    expected = r"^ulzoo.interop.diffusers needs the package diffusers: pip install 'ulzoo\[diffusers\]' \("
    with pytest.raises(ImportError, match=expected):
        importlib.import_module("ulzoo.interop.diffusers")


def test_the_code_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    assert names["latents"].shape == (4, 8, 8, 8) and names["images"].shape == (4, 3, 32, 32)
