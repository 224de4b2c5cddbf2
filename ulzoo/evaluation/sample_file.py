"""Samples as one `.npz` file in ADM's layout, which its evaluator and many others read: `arr_0`, uint8 (N, H, W, 3)."""

import zipfile
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import Tensor


class SampleFile:
    """Writes images as they come, none of which is kept in memory.

    Args:
        path: the file.
        images: how many there will be.
        size: (H, W) of each.
    """

    def __init__(self, path: Path, images: int, size: tuple[int, int]) -> None:
        self.shape, self.written = (images, *size, 3), 0
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._array = self._zip.open("arr_0.npy", "w", force_zip64=True)
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._array, header)

    def add(self, images: Tensor) -> None:
        """uint8 (B, C, H, W), grey or coloured."""
        pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        assert pixels.shape[1:] == self.shape[1:] and pixels.dtype == np.uint8, (pixels.shape, pixels.dtype)
        self._array.write(pixels.data)
        self.written += len(pixels)

    def __enter__(self) -> "SampleFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._array.close()
        self._zip.close()
        assert error is not None or self.written == self.shape[0], (self.written, self.shape)
