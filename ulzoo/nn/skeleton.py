"""Networks on "meta", which have shapes but no values: built without what only values need.

Many operations on "meta" are implemented in Python, and the first of them imports PyTorch's compiler and SymPy, which
takes about as long as importing PyTorch. Files, plans and tables of costs build networks there all the time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILLS = {
    nn.init.constant_,
    nn.init.kaiming_uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    Tensor.normal_,
    Tensor.uniform_,
}
"""What fills a tensor in place, and returns it."""


class WithoutValues(TorchFunctionMode):
    """In this context, parameters are not initialised: for "meta", where that has no effect."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def table(shape: Sequence[int], compute: Callable[[], Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """A computed tensor of this shape, for a module; an empty one on "meta"."""
    if torch.get_default_device().type == "meta":
        return torch.empty(*shape, dtype=dtype)
    return compute()
