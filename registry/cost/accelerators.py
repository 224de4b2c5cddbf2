"""Machines that a training is planned for: `8xh100` is eight of these accelerators. Numbers are the vendors' own."""

import re
from dataclasses import dataclass

from ulzoo.runtime.devices import Precision
from ulzoo.runtime.messages import one_line, suggest

PER_HOST = 8
"""Accelerators of a machine, which their own links connect."""
NETWORK = 8 * 50e9
"""Bytes per second, each direction, between machines: an adapter of 400 Gb/s for each accelerator, as in DGX systems.
A ring through all accelerators enters and leaves each machine once, and its parts use different adapters."""


@dataclass(frozen=True)
class Accelerator:
    """The data sheet of an accelerator, without sparsity.

    Attributes:
        name: as the vendor writes it.
        bf16, fp32: peak FLOPs per second of matrix products.
        memory: in bytes.
        bandwidth: of its memory, bytes per second.
        link: to the others of a machine, bytes per second in each direction.
        watts: the limit of the board's power.
    """

    name: str
    bf16: float
    fp32: float
    memory: float
    bandwidth: float
    link: float
    watts: float

    def peak(self, precision: Precision) -> float:
        """FLOPs per second of matrix products."""
        return self.bf16 if precision == "bf16" else self.fp32


ACCELERATORS = {
    "a100": Accelerator("A100 SXM 80 GB", 312e12, 19.5e12, 80e9, 2.039e12, 300e9, 400),
    "h100": Accelerator("H100 SXM", 989e12, 67e12, 80e9, 3.35e12, 450e9, 700),
    "h200": Accelerator("H200 SXM", 989e12, 67e12, 141e9, 4.8e12, 450e9, 700),
    "b200": Accelerator("B200 SXM", 2250e12, 80e12, 180e9, 8.0e12, 900e9, 1000),
    "mi300x": Accelerator("MI300X", 1307e12, 163.4e12, 192e9, 5.3e12, 448e9, 750),
    "l40s": Accelerator("L40S", 362e12, 91.6e12, 48e9, 0.864e12, 32e9, 350),
    "rtx4090": Accelerator("GeForce RTX 4090", 165.2e12, 82.6e12, 24e9, 1.008e12, 32e9, 450),
}


@dataclass(frozen=True)
class Machines:
    """So many accelerators of one kind, in machines of eight."""

    count: int
    accelerator: Accelerator

    @property
    def name(self) -> str:
        return f"{self.count} × {self.accelerator.name}"

    @property
    def bandwidth(self) -> float:
        """Bytes per second, each direction, of the slowest link of a ring through all of them."""
        return self.accelerator.link if self.count <= PER_HOST else min(self.accelerator.link, NETWORK)


def parse_machines(text: str) -> Machines:
    """Read `8xh100` or `h100`. Raises ValueError."""
    match = re.fullmatch(r"(?:([1-9]\d{0,5})x)?([a-z]+\d+\w*)", text.lower())
    if not match:
        names = ", ".join(ACCELERATORS)
        raise ValueError(f"--on {one_line(text)}: expected a number and one of {names}, as in 8xh100")
    if match[2] not in ACCELERATORS:
        raise ValueError(f"--on {text}: unknown accelerator {match[2]!r}{suggest(match[2], ACCELERATORS)}")
    return Machines(int(match[1] or 1), ACCELERATORS[match[2]])
