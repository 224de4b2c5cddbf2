"""What a model must know of its data, without the data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataContract:
    """The shape of a source's images and what their labels mean.

    Args:
        channels: 3 for RGB, 1 for grey.
        resolution: side of the square images in pixels.
        num_classes: labels are 0 ... num_classes - 1; 0 means that there are none and every label is -1.
        label_names: one name a class; () where only the data itself knows them.
    """

    channels: int
    resolution: int
    num_classes: int
    label_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.resolution, self.resolution
