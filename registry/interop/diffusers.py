"""A trained model in the place of diffusers' `AutoencoderKL`, in scripts and pipelines of latent diffusion."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ulzoo.data.loader import in_order
from ulzoo.data.subset import spread_out
from ulzoo.diffusion import (
    IndependentNoise,
    Noise,
    derive_seeds,
    expand_like,
    independent_noise,
    independent_randn_like,
)
from ulzoo.diffusion.schedules import alpha_sigma
from ulzoo.model.contract import Contract
from ulzoo.model.pretrained import LatentMoments, LatentStatistics
from ulzoo.model.rate import Posterior
from ulzoo.model.tiling import decode_tiled, encode_tiled
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.registry.runs.export import remove_untrained
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.yaml_source import SpecError
from ulzoo.registry.zoo.catalogue import load

try:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.utils.accelerate_utils import apply_forward_hook
except ImportError as error:
    raise ImportError(f"{__name__} needs the package diffusers: pip install 'ulzoo[diffusers]' ({error})") from None

Generators = Noise | Sequence[torch.Generator]
"""One generator for all images or one per image, on any device, as diffusers' pipelines take them."""

DERIVED = (
    *("in_channels", "out_channels", "latent_channels", "sample_size", "block_out_channels", "force_upcast"),
    *("latents_mean", "latents_std"),
)
"""Keys of the config that follow from the others, with the names and meanings of `AutoencoderKL`."""

MEASURED_IMAGES = 1024
TILE_OVERLAP = 0.5


class LatentDistribution(DiagonalGaussianDistribution):
    """z_0 given x: N(α_0 z_clean, σ_0² I), or wider by the posterior's variance where that is learned.

    It does not keep the model alive. Samples and the mode have the dtype of the images, everything else is in float32.

    Args:
        posterior: of z_clean.
        logsnr: λ_z(0), or infinity where z_0 is z_clean.
        dtype: of samples and the mode.
    """

    def __init__(self, posterior: Posterior, logsnr: float, dtype: torch.dtype):
        levels = torch.full((len(posterior.mean),), logsnr, device=posterior.mean.device, dtype=torch.float32)
        self.alpha, self.sigma = alpha_sigma(expand_like(levels, posterior.mean))
        variance = self.sigma.square().expand_as(posterior.mean)
        if posterior.log_variance is not None:
            variance = variance + self.alpha.square() * posterior.log_variance.exp()
        super().__init__(torch.cat([self.alpha * posterior.mean, variance.log()], dim=1))
        self.posterior, self.dtype = posterior, dtype

    def sample(self, generator: Generators | None = None) -> Tensor:
        """z_0, (B, c, h, w): `noise_latents(encode(x))` of the model."""
        noise = _noise(generator, len(self.mean), self.mean.device)
        z_clean = self.posterior.sample(noise)
        return (self.alpha * z_clean + self.sigma * independent_randn_like(z_clean, noise)).to(self.dtype)

    def mode(self) -> Tensor:
        """α_0 z_clean, (B, c, h, w), without the noise that the decoder was trained with."""
        return self.mean.to(self.dtype)


class AutoencoderUL(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Encoder and decoder of a model of images, with the interface of diffusers' `AutoencoderKL`.

    The latent is z_0: `encode(x).latent_dist` is the Gaussian of its fixed noise, and `decode` samples the diffusion
    decoder, so it takes a generator too. Images larger than the model's are processed in tiles after `enable_tiling()`.
    Only the encoder is differentiable. `from_ulzoo` makes one of a trained model, `from_pretrained` reads it again.

    Args:
        spec: the resolved spec, as plain data.
        stages: the stages that were trained.
        scaling_factor: 1 / standard deviation of z_0; latents times this have unit variance.
        shift_factor: mean of z_0, for scripts that subtract it first.

    Raises:
        ValueError: the spec is invalid, or that of a model of video clips or of pixels.
    """

    @register_to_config
    def __init__(
        self,
        *,
        spec: Mapping[str, Any],
        stages: Sequence[str] = ("latents",),
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ):
        super().__init__()
        model = compile_model(spec_from_dict(spec), pretrained=False)
        remove_untrained(model, stages)
        self.model, contract = _autoencoder(model), model.contract
        if contract.video or not list(self.model.parameters()):
            kind = "video clips" if contract.video else "pixels"
            raise ValueError(f"AutoencoderUL is for latents of images, this is the spec of a model of {kind}")
        self.use_tiling = self.use_slicing = False
        self.tile_overlap_factor = TILE_OVERLAP
        self.register_to_config(
            in_channels=contract.channels,
            out_channels=contract.channels,
            latent_channels=contract.latent_channels,
            sample_size=contract.size[0],
            block_out_channels=_levels(contract),
            force_upcast=False,
            latents_mean=None,
            latents_std=None,
        )

    @property
    def tile_sample_min_size(self) -> int:
        """Side of a tile in pixels, which is that of the images that the model was trained on."""
        return self.model.contract.size[0]

    @property
    def tile_latent_min_size(self) -> int:
        """Side of a tile in cells of the latent."""
        return self.model.contract.latent_size[0]

    @classmethod
    def from_ulzoo(
        cls,
        model: UnifiedLatents | str | os.PathLike[str],
        *,
        images: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> "AutoencoderUL":
        """The autoencoder of a trained model, in eval mode.

        Args:
            model: what `ulzoo.load` takes or returns; the weights of a loaded model are shared.
            images: (N, C, H, W) in [-1, 1], for the scale of the latents. If None, it follows from the model's latent
                statistics, or is measured on the first 1,024 images of the spec's validation data.
            device: of the weights of a model that is loaded.

        Raises:
            ValueError: as raised by `ulzoo.load`, or there are no images to measure the latents on.
        """
        if not isinstance(model, UnifiedLatents):
            model = load(model, device)
        mean, std = _scale(model, images)
        with torch.device("meta"):
            autoencoder = cls(
                spec=model.config.to_dict(), stages=list(model.stages), scaling_factor=1 / std, shift_factor=mean
            )
        autoencoder.model = _autoencoder(model)
        return autoencoder.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> "AutoencoderUL":
        """Read what `save_pretrained` wrote, as diffusers does, but never a pickled file."""
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> tuple[Any, ...]:
        """Arguments of the constructor from a config, whose derived keys are derived again."""
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k not in DERIVED}, **kwargs)

    def enable_tiling(self, tile_overlap_factor: float = TILE_OVERLAP) -> None:
        """Process images larger than the model's in overlapping tiles of its size, without seams.

        Args:
            tile_overlap_factor: the least share of a tile's side that neighbours have in common, in [0, 1).
        """
        if not 0 <= tile_overlap_factor < 1:
            raise ValueError(f"tile_overlap_factor must be in [0, 1), not {tile_overlap_factor:g}")
        self.use_tiling, self.tile_overlap_factor = True, tile_overlap_factor

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[LatentDistribution]:
        """The distribution of z_0, as `latent_dist`, of images in [-1, 1], (B, C, H, W)."""
        self.model.contract.check_x(x)
        slices = x.split(1) if self.use_slicing else [x]
        posteriors = [self._posterior(images) for images in slices]
        variances = [p.log_variance for p in posteriors if p.log_variance is not None]
        posterior = Posterior(torch.cat([p.mean for p in posteriors]), torch.cat(variances) if variances else None)
        distribution = LatentDistribution(posterior, self.model.contract.decoded_logsnr, x.dtype)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    @apply_forward_hook
    def decode(
        self, z: Tensor, return_dict: bool = True, generator: Generators | None = None, steps: int | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """The images of latents z_0, as `sample`, (B, C, H, W) in [-1, 1].

        Args:
            generator: source of the decoder's noise.
            steps: evaluations of the decoder; the spec's if None.
        """
        z_0 = z.to(torch.promote_types(z.dtype, torch.float32))
        noise = independent_noise(_noise(generator, len(z), z.device), len(z), z.device)
        if self.use_slicing:
            slices = [self._decode(z_0[i : i + 1], steps, noise.part(slice(i, i + 1))) for i in range(len(z))]
            x = torch.cat(slices)
        else:
            x = self._decode(z_0, steps, noise)
        x = x.to(z.dtype)
        return DecoderOutput(sample=x) if return_dict else (x,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: Generators | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Reconstruct images; with `sample_posterior` these are the model's `reconstruct`, without it of the mode."""
        distribution = self.encode(sample, return_dict=False)[0]
        z = distribution.sample(generator) if sample_posterior else distribution.mode()
        return self.decode(z, return_dict, generator)

    def _posterior(self, x: Tensor) -> Posterior:
        if self._fits(x, self.model.contract.shape):
            return self.model.posterior(x)
        return encode_tiled(self.model, x, overlap=self.tile_overlap_factor)

    def _decode(self, z_0: Tensor, steps: int | None, noise: Noise) -> Tensor:
        if self._fits(z_0, self.model.contract.latent_shape):
            return self.model.decode(z_0, steps=steps, generator=noise)
        return decode_tiled(self.model, z_0, overlap=self.tile_overlap_factor, steps=steps, generator=noise)

    def _fits(self, x: Tensor, shape: tuple[int, ...]) -> bool:
        """Whether images or latents have the model's shape, (C, H, W); others need tiling."""
        if tuple(x.shape[1:]) != shape and not self.use_tiling:
            expected = ", ".join(map(str, shape))
            raise ValueError(f"expected shape (B, {expected}), got {tuple(x.shape)}; call enable_tiling() for larger")
        return tuple(x.shape[1:]) == shape


def _autoencoder(model: UnifiedLatents) -> UnifiedLatents:
    """The model without prior and base, and with the one decoder that it decodes with."""
    decoder = model.decoder if model.final_decoder is None else model.final_decoder
    part = UnifiedLatents(model.encoder, None, decoder, None, model.contract)
    part.config, part.latent_statistics = model.config, model.latent_statistics
    return part.eval()


def _levels(contract: Contract) -> list[int] | None:
    """n numbers for a downsampling of 2^(n - 1), as scripts derive it from the widths of `AutoencoderKL`'s levels."""
    factors = {x // z for x, z in zip(contract.size, contract.latent_size, strict=True)}
    if len(factors) > 1 or (factor := factors.pop()).bit_count() != 1:
        return None
    return [contract.latent_channels] * factor.bit_length()


def _scale(model: UnifiedLatents, images: Tensor | None) -> tuple[float, float]:
    """Mean and standard deviation of all values of z_0, noise included, of images or by what the model records."""
    statistics = model.latent_statistics if images is None else None
    if statistics is None:
        statistics = _measured_statistics(model, images)
    alpha, sigma = alpha_sigma(torch.tensor(model.contract.decoded_logsnr, dtype=torch.float64))
    means, deviations = alpha * torch.tensor(statistics.mean), alpha * torch.tensor(statistics.std)
    mean, square = means.mean(), (means.square() + deviations.square()).mean() + sigma.square()
    return mean.item(), (square - mean.square()).sqrt().item()


def _measured_statistics(model: UnifiedLatents, images: Tensor | None) -> LatentStatistics:
    """Statistics of the latents of images, or of validation data."""
    if images is not None:
        batches: Iterable[Tensor] = images.split(64)
    else:
        try:
            validation = in_order(spread_out(open_source(model.config, "val"), MEASURED_IMAGES), 64)
        except SpecError as error:
            raise ValueError(f"no data to measure the scale of the latents on ({error}): give `images`") from None
        batches = (batch["x"] for batch in validation)
    moments = LatentMoments()
    for x in filter(len, batches):
        moments.add(model.encode(x.to(model.device)))
    if (statistics := moments.statistics()) is None:
        raise ValueError("there are no images to measure the scale of the latents on")
    return statistics


def _noise(generator: Generators | None, n: int, device: torch.device) -> Noise | None:
    """One generator as it is, or the noise of n examples from one generator per example."""
    if not isinstance(generator, Sequence):
        return generator
    if len(generator) != n:
        raise ValueError(f"there are {len(generator)} generators for {n} examples")
    return IndependentNoise([derive_seeds(source, 2)[1] for source in generator], shared=0, device=device)
