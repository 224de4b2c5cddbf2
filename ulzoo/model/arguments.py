"""Checks of the arguments of public methods by their names: types, shapes, dtypes, devices and ranges."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from numbers import Integral, Real
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, get_args

import torch
from torch import Tensor, nn

from ulzoo.diffusion import Noise
from ulzoo.diffusion.samplers import SAMPLERS
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import STAGES, Contract, Sampling
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.runtime.messages import one_line

P = ParamSpec("P")
T = TypeVar("T")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MAX_COUNT = 2**31 - 1
MAX_NUMBER = 1e30  # of float32 and bfloat16
CONDITIONS = tuple(field.name for field in fields(Conditions))
COUNTS = ("n", "samples", "steps", "batch_size")


def check_arguments(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Let a method of `UnifiedLatents` check its arguments; a mistake is a ValueError or TypeError of one line."""
    signature = inspect.signature(method)
    variable = next((name for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD), "")

    @wraps(method)
    def checked(self: Any, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            arguments = dict(signature.bind(self, *args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{method.__qualname__}() {error}") from None
        arguments |= arguments.pop(variable, {})
        check(self.contract, self.device, arguments)
        return method(self, *args, **kwargs)

    return checked


def check(contract: Contract, device: torch.device, arguments: Mapping[str, Any]) -> None:
    """Check arguments by their names; those with other names and absent ones, None, are not checked.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument has another shape, dtype or device, or is out of range.
    """
    values = {name: value for name, value in arguments.items() if value is not None}
    for name in COUNTS:
        if name in values or (name in arguments and name in ("n", "samples")):
            _check_count(name, arguments[name])
    n = values.get("n")
    any_size = (contract.latent_channels, *[None] * len(contract.latent_size))  # of tiled images
    for name, shape in (("x", contract.shape), ("z_0", contract.latent_shape), ("z_clean", any_size)):
        if name in arguments:
            _check_tensor(name, arguments[name], device)
            _check_shape(name, arguments[name], shape)
            n = len(arguments[name])
    if "x" in arguments and device.type != "meta":
        contract.check_x(arguments["x"])
    if "z_0" in arguments and device.type != "meta" and not values["z_0"].isfinite().all():
        raise ValueError("z_0 must be finite, got NaN or infinity")
    if "logsnr" in values:
        _check_tensor("logsnr", values["logsnr"], device)
        if values["logsnr"].shape != (n,):
            raise ValueError(f"logsnr must have shape ({n},), got {tuple(values['logsnr'].shape)}")
    if "generator" in values and not isinstance(values["generator"], get_args(Noise)):
        raise TypeError(f"generator must be a torch.Generator, got {_name(values['generator'])}")
    if "guidance" in values:
        _check_number("guidance", values["guidance"])
    if "callback" in values and not callable(values["callback"]):
        raise TypeError(f"callback must be a function, got {_name(values['callback'])}")
    if "progress" in values and not isinstance(values["progress"], bool):
        raise TypeError(f"progress must be True or False, got {_name(values['progress'])}")
    if "sampling" in values:
        _check_sampling(values["sampling"])
    if "bits" in values:
        _check_number("bits", values["bits"])
        if values["bits"] <= 0:
            raise ValueError(f"bits must be positive, got {_shown(values['bits'])}")
    if "seeds" in values:
        _check_seeds(values["seeds"])
    conditions = values.get("conditions", Conditions(**{name: values.get(name) for name in CONDITIONS}))
    if not isinstance(conditions, Conditions):
        raise TypeError(f"conditions must be Conditions, got {_name(conditions)}")
    if n is not None:
        _check_conditions(conditions, n, contract, device)


class CheckedModule(nn.Module):
    """A module whose `to` refuses devices and dtypes that it cannot be used with."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `nn.Module.to`. Raises ValueError or TypeError, in one line, for a device or dtype that cannot be used."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.dtype) and value not in DTYPES:
                raise ValueError(f"models are in {', '.join(map(str, DTYPES))}, not in {value}")
            if not isinstance(value, str | int | torch.device | torch.dtype | Tensor | torch.memory_format | None):
                raise TypeError(f"to: expected a device, dtype or tensor, got {_name(value)}")
        try:
            return super().to(*args, **kwargs)
        except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = one_line(next(iter(str(error).splitlines()), type(error).__name__))
            raise (TypeError if isinstance(error, TypeError) else ValueError)(f"to: {reason}") from None

    def cuda(self, device: int | torch.device | None = None) -> Self:
        """As `nn.Module.cuda`. Raises ValueError, in one line, without a GPU."""
        if device is None:
            return self.to("cuda")
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device)


def check_images(x: Any, contract: Contract, device: torch.device) -> None:
    """Raise ValueError or TypeError unless x are examples of the model's kind; images may have any size."""
    _check_tensor("x", x, device)
    _check_shape("x", x, contract.shape if contract.video else (contract.channels, None, None))
    if not x.numel():
        raise ValueError(f"x must have at least one example and pixel, got {tuple(x.shape)}")
    contract.check_x(x)


def check_stage(stage: object) -> None:
    """Raise ValueError unless `stage` is the name of a stage."""
    if not isinstance(stage, str) or stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {_shown(stage)}")


def check_network(network: object, names: tuple[str, str]) -> None:
    """Raise ValueError unless `network` is one of two names."""
    if not isinstance(network, str) or network not in names:
        raise ValueError(f"network must be {names[0]!r} or {names[1]!r}, got {_shown(network)}")


def _check_conditions(conditions: Conditions, n: int, contract: Contract, device: torch.device) -> None:
    labels, text, frames = conditions.labels, conditions.text, conditions.frames
    if labels is not None:
        labels = _as_labels(labels)
        if contract.num_classes:
            contract.check_labels_and_text(NetworkConditions(labels=labels), n, contract.num_classes)
        elif labels.shape != (n,):
            raise ValueError(f"labels must have shape ({n},), got {tuple(labels.shape)}")
    if text is not None:
        if not isinstance(text, Text) or not all(isinstance(part, Tensor) for part in text):
            raise TypeError(f"text must be a Text of tokens and mask, got {_name(text)}")
        if text.tokens.dtype not in DTYPES or text.mask.dtype != torch.bool:
            raise ValueError(
                f"text must have tokens in floating point and a mask of bool, got {text.tokens.dtype} and "
                f"{text.mask.dtype}"
            )
        if not contract.text_tokens:
            raise ValueError("this model takes no text: leave out `text`")
        contract.check_labels_and_text(NetworkConditions(text=text), n, contract.num_classes)
        if text.tokens.device.type != "meta" and not text.tokens.isfinite().all():
            raise ValueError("text must have finite tokens, got NaN or infinity")
    for name in ("loss_factor", "bias"):
        if (value := getattr(conditions, name)) is not None:
            contract.check_rate(name, value, n)
    if frames is not None:
        _check_tensor("frames", frames, device)
        contract.check_frames(frames, n, needed=False)
        if device.type != "meta":
            contract.check_x(frames, "frames")


def _as_labels(labels: Any) -> Tensor:
    if isinstance(labels, str | bytes | Mapping | set | int | float):
        raise TypeError(f"labels must be integers, one for each example, got {_name(labels)}")
    try:
        result = torch.as_tensor(labels)
    except Exception:  # torch and NumPy raise errors of many classes
        raise TypeError(f"labels must be integers, one for each example, got {_shown(labels)}") from None
    if result.is_floating_point() or result.is_complex() or result.dtype == torch.bool or result.is_quantized:
        raise TypeError(f"labels must be integers, one for each example, got {result.dtype}")
    if result.device.type == "meta":
        raise ValueError("labels must have values, got a tensor on the device meta")
    return result


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {_shown(value)}")
    count = int(value)
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {_shown(value)}")
    if count > MAX_COUNT:
        raise ValueError(f"{name} must be at most {MAX_COUNT}, got {_shown(value)}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {_shown(value)}")
    try:
        finite = abs(float(value)) <= MAX_NUMBER  # False for NaN
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError(f"{name} must be finite, got {_shown(value)}")


def _check_seeds(seeds: Any) -> None:
    try:
        values = None if isinstance(seeds, str | bytes | Mapping | set) else list(seeds)
    except TypeError:
        values = None
    if values is None or any(isinstance(seed, bool) or not isinstance(seed, Integral) for seed in values):
        raise TypeError(f"seeds must be a sequence of integers, got {_shown(seeds)}")
    if any(not 0 <= seed < 2**64 for seed in values):
        raise ValueError(f"seeds must be in [0, 2^64), got {_shown(seeds)}")


def _check_sampling(sampling: Any) -> None:
    if not isinstance(sampling, Sampling):
        raise TypeError(f"sampling must be a Sampling, got {_name(sampling)}")
    if not isinstance(sampling.sampler, str) or sampling.sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {_shown(sampling.sampler)}")
    _check_count("steps", sampling.steps)
    _check_number("guidance", sampling.guidance)
    interval = sampling.guidance_interval
    if interval is not None:
        if not isinstance(interval, tuple | list) or len(interval) != 2:
            raise TypeError(f"guidance_interval must be two numbers, got {_shown(interval)}")
        for end in interval:
            if isinstance(end, bool) or not isinstance(end, Real) or math.isnan(end):
                raise TypeError(f"guidance_interval must be two numbers, got {_shown(interval)}")
        if interval[0] > interval[1]:
            raise ValueError(f"the guidance interval must rise, got {interval[0]} to {interval[1]}")


def _check_tensor(name: str, value: object, device: torch.device) -> None:
    """A dense tensor in floating point on the device."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {_name(value)}")
    if value.dtype not in DTYPES:
        hint = "; ulzoo.media.pixels.from_uint8 converts" if name in ("x", "frames") else ""
        range_ = " in [-1, 1]" if hint else ""
        raise ValueError(f"{name} must be floating point{range_}, got {value.dtype}{hint}")
    if value.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {value.layout}")
    if value.device != device:
        raise ValueError(f"{name} must be on the model's device, {device}, got {value.device}")


def _check_shape(name: str, value: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless the value has the shape (B, *shape), in which None is any size."""
    sizes = tuple(value.shape[1:])
    fits = len(sizes) == len(shape) and all(
        expected in (None, size) for size, expected in zip(sizes, shape, strict=True)
    )
    if value.ndim == 0 or not fits:
        words = ["B", *("any" if size is None else str(size) for size in shape)]
        raise ValueError(f"{name} must have shape ({', '.join(words)}), got {tuple(value.shape)}")


def _name(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    """A value in a message; of a tensor or array its type."""
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        return _name(value)
    text = one_line(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
