"""Images in a dataset of Hugging Face's `datasets`, on disk or downloaded from the hub."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulzoo.data.images.decode import read_rgb
from ulzoo.data.images.image_folder import ImageSource
from ulzoo.data.source import Sample, Unreadable, check_split

MISSING = "kind: hf_dataset needs the package datasets: pip install 'ulzoo[datasets]'"


class HFDataset(ImageSource):
    """A dataset of Hugging Face's `datasets` with a column of images.

    `path` is a folder written by `save_to_disk`, or one with Parquet files `SPLIT-*.parquet` or `data/SPLIT-*.parquet`;
    with `download`, it may be the name of a dataset on the hub. Rows are read in the order given by the seed.

    Images are decoded on access; `read_rgb` and `square` in `ulzoo.data.images.decode` define colors and sizes.

    Args:
        split: "train" or "val".
        path: the folder, or the name on the hub.
        resolution: side of the square that images are resized and cropped to, in pixels.
        hflip: mirror training images with probability 1/2.
        num_classes: number of labels; null to ignore labels.
        image_column: column of the images.
        label_column: column of the labels, integers.
        text_column: column of the captions, token embeddings (L, text_width).
        train_split: name of the split train in the dataset.
        val_split: name of the split val in the dataset.
        skip_unreadable: skip images that cannot be read, with a warning; otherwise they are an error.
        text_tokens: maximum number of token embeddings per caption; null for images without captions.
        text_width: dimension of a token embedding; null for images without captions.
        download: download the dataset from the hub if there is no folder of that name.

    Raises:
        ValueError: no such dataset, split or column, a label out of range, or keys out of range.
    """

    def __init__(
        self,
        split: str,
        *,
        path: str,
        resolution: int,
        hflip: bool = True,
        num_classes: int | None = None,
        image_column: str = "image",
        label_column: str = "label",
        text_column: str = "text_embedding",
        train_split: str = "train",
        val_split: str = "validation",
        skip_unreadable: bool = False,
        text_tokens: int | None = None,
        text_width: int | None = None,
        download: bool = False,
    ) -> None:
        check_split(split)
        contract = self.describe(
            resolution=resolution, num_classes=num_classes, text_tokens=text_tokens, text_width=text_width
        )
        self.path, self.name = path, train_split if split == "train" else val_split
        rows = _open(path, self.name, download)
        columns = {"image": image_column}
        if num_classes is not None:
            columns["label"] = label_column
        if text_tokens:
            columns["text"] = text_column
        for key, column in columns.items():
            if column not in rows.column_names:
                raise ValueError(
                    f"{key}_column: {path} has no column {column!r}, it has {', '.join(map(repr, rows.column_names))}"
                )
        rows = rows.select_columns(list(columns.values())).cast_column(image_column, _undecoded_image())
        if not len(rows):
            raise ValueError(f"{path}: its split {self.name!r} is empty")
        self.labels = np.full(len(rows), -1)
        if num_classes is not None:
            self.labels = np.asarray(rows.with_format("numpy").select_columns([label_column])[:][label_column])
            wrong = np.flatnonzero((self.labels < 0) | (self.labels >= num_classes))
            if wrong.size:
                row, label = int(wrong[0]), self.labels[wrong[0]]
                raise ValueError(
                    f"{path}: row {row} of {self.name} has the label {label}, not one from 0 to {num_classes - 1}"
                )
            names = getattr(rows.features[label_column], "names", None) or ()
            contract = replace(contract, label_names=tuple(names) if len(names) == num_classes else ())
        self.rows, self.columns, self.contract = rows, columns, contract
        self.hflip, self.skips_unreadable = hflip, skip_unreadable

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Raises Unreadable, a ValueError that names the row."""
        row, key = self.rows[index], f"{self.name}/{index}"
        name = f"{self.path}: {key}"
        image = row[self.columns["image"]]
        if image is None:
            raise Unreadable(f"{name}: no image")
        pixels = self.pixels(read_rgb(BytesIO(image["bytes"]) if image["bytes"] else image["path"], name))
        text = self._text(row[self.columns["text"]], name) if self.contract.text_tokens else None
        return Sample(pixels, int(self.labels[index]), key, text)

    def _text(self, values: Any, name: str) -> Tensor:
        width = self.contract.text_width
        try:
            embeddings = np.asarray(values if len(values) else np.empty((0, width)), np.float32)  # (L, D)
        except (TypeError, ValueError) as error:
            raise Unreadable(f"{name}: its caption is not an array of embeddings ({error})") from None
        if embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise Unreadable(f"{name}: its caption has shape {embeddings.shape}, not (tokens, {width})")
        if not np.isfinite(embeddings).all():
            raise Unreadable(f"{name}: its caption has non-finite values")
        return torch.from_numpy(embeddings[: self.contract.text_tokens])


def _undecoded_image() -> Any:
    """The feature type of images that `datasets` returns without decoding."""
    import datasets

    return datasets.Image(decode=False)


def _open(path: str, split: str, download: bool) -> Any:
    """Open the rows of a split. Raises ValueError."""
    try:
        import datasets
    except ImportError:
        raise ValueError(MISSING) from None
    folder = Path(path).expanduser()
    if not folder.is_dir() and not download:
        raise ValueError(f"{folder}: no such folder (`download: true` downloads {path!r} from the Hugging Face hub)")
    try:
        if not folder.is_dir():
            return datasets.load_dataset(path, split=split)
        if parquet := sorted(
            str(file) for parent in (folder, folder / "data") for file in parent.glob(f"{split}-*.parquet")
        ):
            return datasets.load_dataset("parquet", data_files={split: parquet}, split=split)
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # pyarrow, fsspec and the hub raise errors of many classes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a dataset that `datasets` can open: {reason}") from None
    if isinstance(loaded, dict) and split not in loaded:
        raise ValueError(f"{path}: has no split {split!r}, it has {', '.join(map(repr, loaded))}")
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: has no splits: save a DatasetDict, as returned by `train_test_split`")
    return loaded[split]
