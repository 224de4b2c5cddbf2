"""What a caller conditions a model on, and how the first frames of a clip become conditions of the networks.

The paper says only that Kinetics models are conditioned on 5 frames and generate 11; the rest is our choice. The last
context frame is repeated to the end of the clip. The decoder gets this context clip and a mask as further channels of
x_t; the base gets the clip's encoding and the mask on the latent's grid. So the encoder never sees a future frame.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, cast, get_type_hints

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from ulzoo.media.captions import Text
from ulzoo.model.contract import Contract, DecoderName
from ulzoo.model.rate_control import ControlValue
from ulzoo.runtime.messages import suggest

Labels = Tensor | Sequence[int]


@dataclass(frozen=True)
class Conditions:
    """What a caller conditions a model on besides x; None for what is not given.

    Attributes:
        labels: class labels, (B,), -1 for no class.
        text: captions.
        frames: the first frames of each clip, (B, C, k, H, W) in [-1, 1], with k of the contract's `context_frames`.
        loss_factor, bias: where on its curve a variable-rate model works, a number or one for each example.
    """

    labels: Labels | None = None
    text: Text | None = None
    frames: Tensor | None = None
    loss_factor: ControlValue | None = None
    bias: ControlValue | None = None

    @classmethod
    def of(cls, options: "RateOptions", kind: "type[RateOptions]") -> "Conditions":
        """The conditions among a call's options. Raises TypeError for an option that its kind does not have."""
        names = get_type_hints(kind)
        if unknown := options.keys() - names.keys():
            raise TypeError(f"there is no option {min(unknown)!r}{suggest(min(unknown), names)}")
        return cls(
            labels=options.get("labels"),
            text=options.get("text"),
            frames=cast("DecodeOptions", options).get("frames"),
            loss_factor=options.get("loss_factor"),
            bias=options.get("bias"),
        )

    def repeat_rate(self, times: int) -> "Conditions":
        """Loss factor and bias, where they are tensors, of a batch that is repeated `times` times."""
        loss_factor, bias = (
            value.repeat(times) if isinstance(value, Tensor) and value.ndim else value
            for value in (self.loss_factor, self.bias)
        )
        return replace(self, loss_factor=loss_factor, bias=bias)

    def rate_of(self, rows: list[int]) -> "Conditions":
        """Loss factor and bias, which are numbers or tensors, of these examples."""
        return Conditions(loss_factor=_rows(self.loss_factor, rows), bias=_rows(self.bias, rows))

    def part(self, rows: slice) -> "Conditions":
        """The conditions of these examples alone."""
        return Conditions(
            labels=None if self.labels is None else self.labels[rows],
            text=None if self.text is None else self.text.part(rows),
            frames=None if self.frames is None else self.frames[rows],
            loss_factor=_rows(self.loss_factor, rows),
            bias=_rows(self.bias, rows),
        )


def _rows(value: ControlValue | None, rows: slice | list[int]) -> ControlValue | None:
    shared = value is None or isinstance(value, int | float) or (isinstance(value, Tensor) and not value.ndim)
    return value if shared else value[rows]  # type: ignore[index]


class RateOptions(TypedDict, total=False):
    """What `UnifiedLatents.rate` is conditioned on.

    Attributes:
        labels, text: see `Conditions`, one of each example.
        loss_factor, bias: of a variable-rate model, within its `rate_range`, a number or one for each example; higher
            values give more bits and less distortion. If None, the model's defaults.
    """

    labels: Labels | None
    text: Text | None
    loss_factor: ControlValue | None
    bias: ControlValue | None


class DecodeOptions(RateOptions, total=False):
    """What `UnifiedLatents.decode` and `reconstruct` are conditioned on, and how they sample the decoder.

    Attributes:
        labels, frames, text: see `Conditions`, one of each example; the result begins with the frames. A model trained
            without them for a share of the examples samples without them too.
        loss_factor, bias: see `RateOptions`; those of the encoder.
        steps: network evaluations; if None the spec's, or the largest number of a distilled decoder.
        network: the decoder, or the distilled one; if None the distilled one where it has this number of steps.
    """

    frames: Tensor | None
    steps: int | None
    network: DecoderName | None


class SampleOptions(DecodeOptions, total=False):
    """The same for `UnifiedLatents.sample`, where `steps` are those of the base and the decoder keeps its own.

    Attributes:
        guidance: scale of the base's classifier-free guidance; the spec's if None.
    """

    guidance: float | None


def first_frames(x: Tensor, contract: Contract) -> Tensor | None:
    """The context frames of x, (B, C, k, H, W); None if the model has no frame conditioning."""
    return x[:, :, : contract.context_frames] if contract.context_frames else None


def repeat_last_frame(frames: Tensor, length: int) -> Tensor:
    """Continue k frames by copies of the last one, (B, C, k, H, W) -> (B, C, length, H, W)."""
    last = frames[:, :, -1:]
    return torch.cat([frames, last.expand(-1, -1, length - frames.shape[2], -1, -1)], dim=2)


def frame_mask(context_frames: int, length: int, size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Share of the frames at each position of a grid (t, h, w) that are context frames, (1, 1, *size)."""
    is_context = (torch.arange(length, device=device) < context_frames).float()[None]  # (1, length)
    return adaptive_avg_pool1d(is_context, size[0]).reshape(1, 1, -1, 1, 1).expand(1, 1, *size)


def append_mask(clip: Tensor, context_frames: int, length: int) -> Tensor:
    """A context clip, or its encoding, with the mask as last channel, (B, C, *size) -> (B, C + 1, *size)."""
    mask = frame_mask(context_frames, length, clip.shape[2:], clip.device).to(clip)
    return torch.cat([clip, mask.expand(len(clip), -1, -1, -1, -1)], dim=1)


def context_clip(
    frames: Tensor | None,
    n: int,
    contract: Contract,
    device: torch.device,
    *,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The frame condition of a network, zeros if there are no context frames.

    Returns:
        the context clip with its mask, (n, C + 1, T, H, W), for a decoder; with `encode`, its encoding with the mask,
        (n, c + 1, t, h, w), for a base.
    """
    if frames is None:
        channels, *size = contract.latent_shape if encode else contract.shape
        return torch.zeros(n, channels + 1, *size, device=device, dtype=torch.float32)
    clip = repeat_last_frame(frames.to(device), contract.size[0])
    return append_mask(encode(clip) if encode else clip, contract.context_frames, contract.size[0])
