"""Limits of the size of a model, so that a spec with absurd numbers is an error and not an exhausted machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

MAX_MODULES = 10_000  # the largest model of the paper has 1,283
MAX_PARAMETERS = 10**12
MAX_BUFFERS = 10**8


@contextmanager
def bounded() -> Iterator[None]:
    """Modules built in this context raise a ValueError beyond these bounds, or beyond what PyTorch can hold."""
    modules = parameters = buffers = 0

    def count_module(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > MAX_MODULES:
            raise ValueError(f"this makes more than {MAX_MODULES:,} modules")

    def count_parameters(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal parameters
        parameters += parameter.numel() if parameter is not None else 0
        if parameters > MAX_PARAMETERS:
            raise ValueError(f"this makes more than {MAX_PARAMETERS:,} parameters")

    def count_buffers(module: nn.Module, name: str, buffer: Tensor | None) -> None:
        nonlocal buffers
        buffers += buffer.numel() if buffer is not None else 0
        if buffers > MAX_BUFFERS:
            raise ValueError(f"this makes tables of more than {MAX_BUFFERS:,} values, of positions say")

    hooks = [
        register_module_buffer_registration_hook(count_buffers),
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_parameters),
    ]
    try:
        yield
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes that overflow, or too little memory
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"the networks cannot be built: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
