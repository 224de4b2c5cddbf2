"""What a pass over a split collects, in a form that can be saved, restored and merged over processes."""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Protocol

import torch
from torch import Tensor

ROWS, SIZES, SUM = "rows.", "sizes.", "sum."  # prefixes of names in a state


class Collected(Protocol):
    """Results that grow with each batch."""

    def state(self) -> dict[str, Tensor]:
        """Everything collected so far, as tensors on the CPU."""
        ...

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Replace the content by that of one state, or of the states of all processes, by rank."""
        ...


class ExampleValues:
    """Values of examples by name, in the order of the examples, and sums over examples, in float64 on the CPU.

    Batch n belongs to process n mod N, so that merged values are in the order, and therefore have the means, of a
    single process.
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Tensor]] = {}
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add the values of a batch, (B, ...)."""
        self._rows.setdefault(name, []).append(values.detach().cpu().double())

    def add_to_sum(self, name: str, term: Tensor) -> None:
        """Add a batch's term to a sum."""
        term = term.detach().cpu().double()
        self._sums[name] = self._sums[name] + term if name in self._sums else term

    def __contains__(self, name: str) -> bool:
        return name in self._rows or name in self._sums

    def rows(self, name: str) -> Tensor:
        """The values of all examples, (N, ...)."""
        return torch.cat(self._rows[name])

    def sum(self, name: str) -> Tensor:
        """A sum over all examples."""
        return self._sums[name]

    def state(self) -> dict[str, Tensor]:
        rows = {f"{ROWS}{name}": torch.cat(batches) for name, batches in self._rows.items()}
        sizes = {f"{SIZES}{name}": torch.tensor([len(b) for b in batches]) for name, batches in self._rows.items()}
        return {**rows, **sizes, **{f"{SUM}{name}": value for name, value in self._sums.items()}}

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._rows, self._sums = {}, {}
        for name in dict.fromkeys(chain.from_iterable(states)):
            of_processes = [state for state in states if name in state]
            if name.startswith(SUM):
                for state in of_processes:
                    self.add_to_sum(name.removeprefix(SUM), state[name])
            elif name.startswith(ROWS):
                short = name.removeprefix(ROWS)
                batches = [state[name].split(state[f"{SIZES}{short}"].tolist()) for state in of_processes]
                self._rows[short] = [rows for turn in zip_longest(*batches) for rows in turn if rows is not None]
