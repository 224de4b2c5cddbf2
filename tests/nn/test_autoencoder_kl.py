"""A foreign autoencoder: the same numbers as diffusers' own, and every way in which the files may not be the spec's."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ulzoo.nn import DiffusersAutoencoder

diffusers = pytest.importorskip("diffusers")

WEIGHTS = "diffusion_pytorch_model.safetensors"
Keys = dict[str, Any]
KEYS: Keys = {"block_out_channels": (8, 16, 16), "layers_per_block": 1, "norm_groups": 4}
CONFIG: Keys = {
    "block_out_channels": (8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}


def make(folder: Path, size: tuple[int, ...] = (16, 24), channels: int = 4, **keys: Any) -> DiffusersAutoencoder:
    return DiffusersAutoencoder(size, 3, channels, (4, 4), path=str(folder), **{**KEYS, **keys})


@pytest.fixture(scope="module")
def vae() -> Any:
    """A tiny AutoencoderKL, random but for its seed."""
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(**CONFIG).eval()


@pytest.fixture
def folder(vae: Any, tmp_path: Path) -> Path:
    vae.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def edit(folder: Path) -> Callable[..., None]:
    """Change keys of the folder's config.json; None takes one out."""

    def edit(**changes: Any) -> None:
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        kept = {key: value for key, value in config.items() if key not in changes or value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return edit


@pytest.mark.parametrize(("scale", "shift"), [(0.18215, 0.0), (1.5, 0.25)])
def test_it_is_diffusers_own_autoencoder_but_for_the_scale(
    vae: Any, folder: Path, edit: Callable[..., None], scale: float, shift: float
) -> None:
    edit(scaling_factor=scale, shift_factor=shift)
    encoder = make(folder, scaling_factor=scale, shift_factor=shift)
    encoder.load_pretrained()
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    mean = vae.encode(x).latent_dist.mean
    z_clean = encoder(x)
    assert z_clean.shape == (2, 4, 4, 6)
    torch.testing.assert_close(z_clean, (mean - shift) * scale)
    torch.testing.assert_close(encoder.decode(z_clean), vae.decode(mean).sample)


def test_z_clean_has_unit_variance_if_the_factors_are_the_latents_own(folder: Path, edit: Callable[..., None]) -> None:
    x = torch.rand(8, 3, 16, 24) * 2 - 1
    edit(scaling_factor=1.0)
    plain = make(folder, scaling_factor=1.0)
    plain.load_pretrained()
    mean = plain(x)
    shift, scale = mean.mean().item(), 1 / mean.std().item()
    edit(scaling_factor=scale, shift_factor=shift)
    encoder = make(folder, scaling_factor=scale, shift_factor=shift)
    encoder.load_pretrained()
    assert encoder(x).mean().item() == pytest.approx(0, abs=1e-5)
    assert encoder(x).std().item() == pytest.approx(1, abs=1e-5)


def test_weights_under_old_names_are_read_as_diffusers_reads_them(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(name: str) -> str:
        return re.sub(r"(attentions\.0\.)(to_q|to_k|to_v|to_out\.0)\.", lambda m: f"{m[1]}{old[m[2]]}.", name)

    renamed = {older(name): tensor for name, tensor in tensors.items()}
    assert len(renamed.keys() - tensors.keys()) == 16  # two middles of four layers, each with weight and bias
    safetensors.torch.save_file(renamed, folder / WEIGHTS)
    encoder, x = make(folder), torch.rand(1, 3, 16, 24)
    encoder.load_pretrained()
    reference = diffusers.AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    torch.testing.assert_close(encoder(x), reference.encode(x).latent_dist.mean * 0.18215)


def test_the_defaults_are_stable_diffusions_autoencoder() -> None:
    with torch.device("meta"):
        encoder = DiffusersAutoencoder((512, 512), 3, 4, (8, 8), path="nowhere")
        z_clean = encoder(torch.empty(1, 3, 512, 512))
        assert z_clean.shape == (1, 4, 64, 64) and encoder.decode(z_clean).shape == (1, 3, 512, 512)
    assert sum(p.numel() for p in encoder.parameters()) == 83_653_863
    assert {tensor.device.type for tensor in (*encoder.parameters(), *encoder.buffers())} == {"meta"}


def test_stable_diffusions_config_of_2022_fits_the_defaults(tmp_path: Path) -> None:
    """Its config.json, which knows none of the later keys: the scale above all."""
    config = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.4.2",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 256,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        encoder = DiffusersAutoencoder((512, 512), 3, 4, (8, 8), path=str(tmp_path))
    with pytest.raises(ValueError, match=f"has no {WEIGHTS}"):  # so the config was taken
        encoder.load_pretrained()


def test_it_is_frozen_and_its_decoder_still_passes_gradients(folder: Path) -> None:
    encoder = make(folder)
    encoder.load_pretrained()
    assert not any(p.requires_grad for p in encoder.parameters())
    z = torch.randn(1, 4, 4, 6, requires_grad=True)
    encoder.decode(z).sum().backward()
    assert z.grad is not None and z.grad.any()


def test_the_same_seed_gives_the_same_autoencoder_without_files() -> None:
    def fresh() -> DiffusersAutoencoder:
        torch.manual_seed(1)
        return make(Path("nowhere"))

    a, b = fresh(), fresh()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers_per_block": 2}, r"^layers_per_block is 1, .*config\.json says layers_per_block 2: set layers_per_b"),
        ({"norm_num_groups": 8}, r"^norm_groups is 4, .* says norm_num_groups 8: set norm_groups to that$"),
        ({"block_out_channels": [8, 16, 32]}, r"^block_out_channels is \[8, 16, 16\], .* says .* \[8, 16, 32\]"),
        ({"latent_channels": 16}, r"^latent.channels is 4, .* says latent_channels 16: set latent.channels to that$"),
        ({"scaling_factor": 1.5305}, r"^scaling_factor is 0.18215, .* says scaling_factor 1.5305"),
        ({"shift_factor": 0.0609}, r"^shift_factor is 0.0, .* says shift_factor 0.0609"),
        ({"use_quant_conv": False}, r"^use_quant_conv is True, .* says use_quant_conv False"),
        ({"in_channels": 1}, r"^the data has 3 channels, .* says in_channels 1$"),
        ({"act_fn": "relu"}, r"^path .*: config\.json says act_fn relu, only silu is supported$"),
        ({"latents_mean": [0.0] * 4}, r"^path .*: config\.json says latents_mean \[.*\], only None is supported$"),
        ({"layers_per_block": 2, "norm_num_groups": 8}, r"^layers_per_block is 1, [^;]*; norm_groups is 4, [^;]*$"),
        ({"layers_per_block": None, "norm_num_groups": None}, r"^norm_groups is 4, .* says norm_num_groups 32"),
        ({"_class_name": "VQModel"}, r"^path .*: config\.json is of VQModel, not of an AutoencoderKL$"),
        ({"_class_name": None}, r"^path .*: config\.json is of nothing known, not of an AutoencoderKL$"),
    ],
)
def test_a_config_of_another_network_is_refused(
    folder: Path, edit: Callable[..., None], changes: Keys, message: str
) -> None:
    edit(**changes)
    with pytest.raises(ValueError, match=message) as error:
        make(folder).load_pretrained()
    assert "\n" not in str(error.value)


def test_sizes_that_pipelines_are_advised_do_not_matter(folder: Path, edit: Callable[..., None]) -> None:
    edit(sample_size=1024, force_upcast=False, shift_factor=0.0)
    make(folder).load_pretrained()


def _no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def _cut_short(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def _rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        change(tensors)
        safetensors.torch.save_file(tensors, folder / WEIGHTS)

    return rewrite


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is of nothing known"),
        (_no_weights, f"has no {WEIGHTS}; save_pretrained of diffusers writes one"),
        (_pickled, f"has no {WEIGHTS}, and diffusion_pytorch_model.bin is a pickle, which is never read; save_pretr"),
        (_cut_short, f"{WEIGHTS} is cut short or damaged"),
        (
            _rewritten(lambda tensors: tensors.pop("encoder.conv_in.bias")),
            r"does not fit config.json: encoder.conv_in.bias should be (8,), it is missing",
        ),
        (
            _rewritten(lambda tensors: tensors.update({"other": torch.zeros(2)})),
            r"does not fit config.json: other should be missing, it is (2,)",
        ),
        (
            _rewritten(lambda tensors: tensors.update({"decoder.conv_in.bias": torch.zeros(2)})),
            r"does not fit config.json: decoder.conv_in.bias should be (16,), it is (2,)",
        ),
    ],
)
def test_files_that_are_no_autoencoder_are_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=rf"^path {folder}: .*{re.escape(message)}") as error:
        make(folder).load_pretrained()
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^path {tmp_path}/none: no such folder"):
        make(tmp_path / "none").load_pretrained()


def test_the_hash_of_the_weights_is_checked_if_given(folder: Path) -> None:
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    make(folder, sha256=digest.upper()).load_pretrained()
    with pytest.raises(ValueError, match=rf"^sha256 {'0' * 64} is not that of {folder}/{WEIGHTS}, {digest}$"):
        make(folder, sha256="0" * 64).load_pretrained()


@pytest.mark.parametrize(
    ("size", "downsample", "keys", "message"),
    [
        ((16, 16), (8, 8), {}, r"^latent.downsample \[8, 8\] .* with 3 levels: set latent.downsample to \[4, 4\]$"),
        ((4, 16, 16), (1, 4, 4), {}, r"^latent.downsample \[1, 4, 4\] is not that of an autoencoder of images"),
        ((16, 18), (4, 4), {}, r"^latent.downsample \[4, 4\] does not divide the grid \[16, 18\]$"),
        ((16, 16), (4, 4), {"norm_groups": 3}, r"^norm_groups 3 does not divide all of \[8, 16, 16\]$"),
        ((16, 16), (4, 4), {"norm_groups": 0}, r"^norm_groups 0 "),
        ((16, 16), (4, 4), {"block_out_channels": ()}, r"^norm_groups 4 does not divide all of \[\]$"),
        ((16, 16), (4, 4), {"layers_per_block": 0}, r"^layers_per_block must be at least 1, not 0$"),
        ((16, 16), (4, 4), {"scaling_factor": 0.0}, r"^scaling_factor must be above 0, not 0$"),
    ],
)
def test_keys_that_do_not_fit_are_named(
    size: tuple[int, ...], downsample: tuple[int, ...], keys: Keys, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusersAutoencoder(size, 3, 4, downsample, path="nowhere", **{**KEYS, **keys})


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    expected = r"^kind diffusers_autoencoder needs the package diffusers: pip install 'ulzoo\[diffusers\]'$"
    with pytest.raises(ValueError, match=expected):
        make(Path("nowhere"))


@pytest.mark.slow
def test_diffusers_is_imported_only_where_it_is_needed() -> None:
    code = "import sys, ulzoo.nn; from ulzoo.registry.spec.components import ENCODERS; "
    check = f"{code}ENCODERS.config('diffusers_autoencoder'); sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
