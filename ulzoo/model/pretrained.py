"""What a trained model carries besides its networks: its spec and the statistics of its latents; saved and loaded.

`save_pretrained`, `from_pretrained` and `push_to_hub` follow huggingface_hub's `ModelHubMixin`. A file contains a spec,
so the registry reads and writes it: these methods call the package's public functions, the only calls upwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from ulzoo.model.contract import Contract

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of z_clean by channel, over examples and positions.

    Attributes:
        mean, std: one value per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_dict(self) -> dict[str, list[float]]:
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Any, channels: int) -> "LatentStatistics":
        """Raises ValueError unless `values` has a finite mean and a positive deviation for each channel."""
        rows = [values.get(key) if isinstance(values, dict) else None for key in ("mean", "std")]
        for row in rows:
            if not isinstance(row, list) or len(row) != channels or not all(isinstance(v, float | int) for v in row):
                raise ValueError(f"latent statistics must have a mean and std of {channels} numbers each")
        mean, std = (tuple(float(value) for value in row) for row in rows if row is not None)
        if not torch.tensor([*mean, *std]).isfinite().all() or min(std) <= 0:
            raise ValueError("latent statistics must be finite, with std above 0")
        return cls(mean, std)


class LatentMoments:
    """Accumulates latents, in float64, for their statistics."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = torch.zeros(2, 1, dtype=torch.float64)  # of z and z², by channel, (2, c)

    def add(self, z_clean: Tensor) -> None:
        """Add latents, (B, c, ...)."""
        z = z_clean.double().cpu().transpose(0, 1).flatten(1)  # (c, values)
        self.count += z.shape[1]
        self.sums = self.sums + torch.stack([z.sum(1), z.square().sum(1)])

    def state(self) -> dict[str, Tensor]:
        """The sums so far, for `restore`."""
        return {"count": torch.tensor(self.count), "sums": self.sums}

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Replace the sums by those of one or more states together."""
        self.count = sum(int(state["count"]) for state in states)
        self.sums = torch.zeros(2, 1, dtype=torch.float64)
        for state in states:
            self.sums = self.sums + state["sums"]

    def statistics(self) -> LatentStatistics | None:
        """None if there are no latents, or a channel is constant, by which nothing could be normalised."""
        mean, squares = self.sums / max(self.count, 1)
        variance = squares - mean.square()
        if not (variance > 0).all():
            return None
        return LatentStatistics(tuple(mean.tolist()), tuple(variance.sqrt().tolist()))


class PretrainedModel(nn.Module):
    """The part of `UnifiedLatents` that belongs to files.

    Attributes:
        config: the spec that the model was compiled from, of the registry, whose types this package does not know.
        latent_statistics: of validation data; None if they were not measured.
    """

    contract: Contract
    config: Any
    latent_statistics: LatentStatistics | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of x, or (C, T, H, W) of clips."""
        return self.contract.shape

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(c, h, w) of a latent, or (c, t, h, w)."""
        return self.contract.latent_shape

    def normalize_latents(self, z: Tensor) -> Tensor:
        """z_clean with mean 0 and standard deviation 1 in each channel, for other generative models."""
        mean, std = self._channel_statistics(z)
        return (z - mean) / std

    def denormalize_latents(self, z: Tensor) -> Tensor:
        """The inverse of `normalize_latents`; `decode` takes `noise_latents` of the result."""
        mean, std = self._channel_statistics(z)
        return z * std + mean

    def save_pretrained(self, save_directory: str | Path, *, dtype: Dtype | None = None) -> None:
        """Write the files of a repository on the hub to a folder: weights, spec, config and model card.

        Args:
            dtype: of the stored weights; that of the model if None.

        Raises:
            ValueError: the folder contains files that `save_pretrained` did not write, or a weight is not finite.
        """
        import ulzoo

        ulzoo.save_pretrained(cast("UnifiedLatents", self), save_directory, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load a trained model in eval mode: what `ulzoo.load` takes, or "org/repo" on the Hugging Face hub.

        Args:
            revision: commit, tag or branch on the hub.
            dtype: of the weights; float32 if None.
        """
        import ulzoo

        model = ulzoo.from_pretrained(pretrained_model_name_or_path, revision=revision, device=device, dtype=dtype)
        assert isinstance(model, cls)
        return model

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        license: str = "",
        private: bool = False,
        commit_message: str = "",
    ) -> str:
        """Publish the model on the Hugging Face hub, as `ulzoo push` does, and return its address with the commit."""
        import ulzoo

        return ulzoo.push_to_hub(
            cast("UnifiedLatents", self),
            repo_id,
            revision=revision,
            license=license,
            private=private,
            commit_message=commit_message,
        )

    def _channel_statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (1, c, 1, ...)."""
        statistics = self.latent_statistics
        if statistics is None:
            raise ValueError("this model has no latent statistics; `ulzoo evaluate` measures them")
        if z.ndim != len(self.latent_shape) + 1 or z.shape[1] != self.latent_shape[0]:
            expected = ", ".join(map(str, self.latent_shape))
            raise ValueError(f"latents must have shape (B, {expected}), got {tuple(z.shape)}")
        shape = (1, -1, *[1] * (z.ndim - 2))
        mean, std = (
            torch.tensor(values, device=z.device, dtype=z.dtype).reshape(shape)
            for values in (statistics.mean, statistics.std)
        )
        return mean, std
