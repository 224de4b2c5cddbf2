"""What a caller tells a model besides x: labels, captions and given frames, checked and turned into conditions."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from ulzoo.diffusion import Noise, rand
from ulzoo.media.captions import Text
from ulzoo.model.contract import Contract
from ulzoo.model.denoisers import Conditional, Conditions
from ulzoo.model.rate import NormalPrior

Labels = Tensor | Sequence[int]


def told(
    network: Conditional | NormalPrior, labels: Labels | None, text: Text | None, device: torch.device
) -> Conditions:
    """Labels and text as conditions, as far as the network takes them."""
    conditions: Conditions = {}
    if labels is not None and network.num_classes:
        conditions["labels"] = torch.as_tensor(labels, device=device)
    if text is not None and network.takes_text:
        conditions["text"] = text.to(device)
    return conditions


def hidden(network: Conditional | NormalPrior, conditions: Conditions, generator: Noise | None = None) -> Conditions:
    """Conditions as they are in training: each is hidden from some examples by a coin of its own.

    Labels become -1, captions empty, given frames and their mask zero.
    """
    if not isinstance(network, Conditional):
        return conditions
    found, dropout = conditions.copy(), network.dropout
    if (labels := conditions.get("labels")) is not None and dropout.labels:
        found["labels"] = torch.where(rand(len(labels), generator, labels.device) >= dropout.labels, labels, -1)
    if (text := conditions.get("text")) is not None and dropout.text:
        kept = rand(len(text.mask), generator, text.mask.device) >= dropout.text
        found["text"] = Text(text.tokens, text.mask & kept[:, None])
    if (given := conditions.get("given")) is not None and dropout.frames:
        kept = rand(len(given), generator, given.device) >= dropout.frames
        found["given"] = given * kept.reshape(-1, 1, 1, 1, 1).to(given)
    return found


def check_told(conditions: Conditions, n: int, num_classes: int, contract: Contract) -> None:
    """Raises ValueError on labels or text of a caller's that do not fit."""
    if (labels := conditions.get("labels")) is not None:
        if labels.shape != (n,):
            raise ValueError(f"labels must have shape ({n},), got {tuple(labels.shape)}")
        if ((labels < -1) | (labels >= num_classes)).any():
            raise ValueError(f"labels must be 0 to {num_classes - 1}, or -1 for none, got {labels.tolist()}")
    if (text := conditions.get("text")) is not None:
        shapes = (n, contract.text_tokens, contract.text_width), (n, contract.text_tokens)
        if (tuple(text.tokens.shape), tuple(text.mask.shape)) != shapes:
            raise ValueError(
                f"text must have tokens of shape {shapes[0]} and a mask of shape {shapes[1]}, "
                f"got {tuple(text.tokens.shape)} and {tuple(text.mask.shape)}"
            )


def check_frames(frames: Tensor | None, n: int, contract: Contract, needed: bool) -> None:
    """Raises ValueError on frames of another shape, frames for a model that continues none, or none where needed."""
    expected = (n, contract.channels, contract.given_frames, *contract.size[1:])
    if not contract.given_frames:
        if frames is not None:
            raise ValueError("this model was not compiled for frame conditioning: leave out `frames`")
    elif frames is None:
        if needed:
            raise ValueError(f"this model continues given frames: pass `frames` of shape {expected}")
    elif frames.shape != expected:
        raise ValueError(f"frames must have shape {expected}, got {tuple(frames.shape)}")


def first_frames(x: Tensor, contract: Contract) -> Tensor | None:
    """The frames of x that are given, and no others, (B, C, k, H, W)."""
    return x[:, :, : contract.given_frames] if contract.given_frames else None


def held_clip(
    frames: Tensor | None, n: int, contract: Contract, device: torch.device, encode: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """What a network that continues frames is told of the given ones, zeros where none are.

    The held clip for a decoder, (n, C + 1, T, H, W); for a base its encoding, by `encode`, (n, c + 1, t, h, w).
    """
    if frames is None:
        channels, *size = contract.latent_shape if encode else contract.shape
        return torch.zeros(n, channels + 1, *size, device=device)
    held = hold(frames.to(device), contract.size[0])
    return condition(encode(held) if encode else held, contract.given_frames, contract.size[0])


def repeated(conditions: Conditions, times: int) -> Conditions:
    """The same conditions, `times` times over in the batch."""

    def again(x: Tensor) -> Tensor:
        return x.repeat(times, *[1] * (x.ndim - 1))

    found: dict[str, Any] = dict(conditions)
    return cast(
        Conditions,
        {name: value.repeat(times) if isinstance(value, Text) else again(value) for name, value in found.items()},
    )


def hold(frames: Tensor, length: int) -> Tensor:
    """A clip of `length` frames that stands still after the given ones, (B, C, k, H, W) -> (B, C, length, H, W)."""
    last = frames[:, :, -1:]
    return torch.cat([frames, last.expand(-1, -1, length - frames.shape[2], -1, -1)], dim=2)


def mask(given: int, length: int, size: Sequence[int]) -> Tensor:
    """The share of the frames under each position that are given, (1, 1, *size), for `size` with time in front."""
    known = (torch.arange(length) < given).float()[None]  # (1, length)
    return adaptive_avg_pool1d(known, size[0]).reshape(1, 1, -1, 1, 1).expand(1, 1, *size)


def condition(held: Tensor, given: int, length: int) -> Tensor:
    """The held clip, or its encoding, with the mask as a last channel, (B, C, *size) -> (B, C + 1, *size)."""
    known = mask(given, length, held.shape[2:]).to(held)
    return torch.cat([held, known.expand(len(held), -1, -1, -1, -1)], dim=1)
