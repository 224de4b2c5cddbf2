"""What a model must know of its data, without the data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataContract:
    """The shape of a source's images or clips, what their labels mean and how their captions come.

    Args:
        channels: 3 for RGB, 1 for grey.
        resolution: side of the square images in pixels.
        num_classes: labels are 0 ... num_classes - 1; 0 means that there are none and every label is -1.
        label_names: one name a class; () where only the data itself knows them.
        frames: frames of a clip; None for images.
        frame_rate: frames of a clip per second; None for images, and where it differs between videos.
        text_tokens: token embeddings that a caption is cut or padded to; 0 where there are no captions.
        text_width: values of an embedding; 0 where there are no captions.
    """

    channels: int
    resolution: int
    num_classes: int
    label_names: tuple[str, ...] = ()
    frames: int | None = None
    frame_rate: float | None = None
    text_tokens: int = 0
    text_width: int = 0

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) of an image or (T, H, W) of a clip."""
        time = () if self.frames is None else (self.frames,)
        return *time, self.resolution, self.resolution

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image or (C, T, H, W) of a clip."""
        return self.channels, *self.size
