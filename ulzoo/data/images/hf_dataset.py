"""Images in a dataset of Hugging Face's `datasets`, on disk or downloaded from the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulzoo.data.fingerprint import describe_files
from ulzoo.data.images.decode import read_rgb
from ulzoo.data.images.image_folder import ImageSource
from ulzoo.data.source import ListedExample, Sample, Unreadable, check_split
from ulzoo.files.retries import NoAnswer, hub_retries
from ulzoo.runtime.messages import one_line

ROWS_AT_ONCE = 1000
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
        rows = _with_undecoded_images(rows.select_columns(list(columns.values())), image_column, path)
        if not len(rows):
            raise ValueError(f"{path}: its split {self.name!r} is empty")
        self.labels = np.full(len(rows), -1)
        if num_classes is not None:
            self.labels = _integers(rows, label_column, f"{path}: {self.name}")
            wrong = np.flatnonzero((self.labels < 0) | (self.labels >= num_classes))
            if wrong.size:
                row, label = int(wrong[0]), self.labels[wrong[0]]
                raise ValueError(
                    f"{path}: row {row} of {self.name} has the label {label}, not one from 0 to {num_classes - 1}"
                )
            self.labels = self.labels.astype(np.int64)
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
        if image is None or not (image["bytes"] or image["path"]):
            raise Unreadable(f"{name}: no image{'' if image is None else ', its bytes are empty'}")
        pixels = self.pixels(read_rgb(BytesIO(image["bytes"]) if image["bytes"] else image["path"], name))
        text = self._text(row[self.columns["text"]], name) if self.contract.text_tokens else None
        return Sample(pixels, int(self.labels[index]), key, text)

    def list_examples(self, count: int) -> Iterable[ListedExample]:
        """The rows, which are in the files of the whole dataset; an image may also be in a file of its own."""
        written = sum(os.stat(file["filename"]).st_mtime_ns for file in self.rows.cache_files)
        for index, (size, path) in zip(range(count), _list_images(self.rows, self.columns["image"]), strict=False):
            key, label = f"{self.name}/{index}", int(self.labels[index])
            yield ListedExample(key, label, size, written) if path is None else describe_files(key, label, path)

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


def _with_undecoded_images(rows: Any, column: str, path: str) -> Any:
    """The rows with a column of images that `datasets` returns without decoding.

    Raises ValueError unless the column has images, encoded files, their paths, or arrays of uint8.
    """
    import datasets

    feature = rows.features[column]
    is_array = isinstance(feature, datasets.Array2D | datasets.Array3D) and feature.dtype == "uint8"
    is_file = isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
    is_content = isinstance(feature, datasets.Value) and feature.dtype in ("string", "binary", "large_binary", "null")
    if not (isinstance(feature, datasets.Image) or is_array or is_file or is_content):
        raise ValueError(
            f"image_column: {path}: {column!r} has {_type_name(feature)}, not images, such as a column of the type "
            "datasets.Image or of encoded files"
        )
    try:
        return rows.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # pyarrow and Pillow raise errors of many classes
        raise ValueError(f"image_column: {path}: {column!r} has no images: {one_line(str(error))}") from None


def _list_images(rows: Any, column: str) -> Iterator[tuple[int | None, str | None]]:
    """The size of each row's image, or its path if it is in a file, without reading it."""
    import pyarrow.compute

    table = rows.select_columns([column]).with_format("arrow")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        images = table[start : start + ROWS_AT_ONCE][column]
        sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(images, "bytes")).to_pylist()
        paths = pyarrow.compute.struct_field(images, "path").to_pylist()
        yield from ((size, None if size else path) for size, path in zip(sizes, paths, strict=True))


def _integers(rows: Any, column: str, where: str) -> np.ndarray:
    """The labels in a column. Raises ValueError, with the row, for anything but integers."""
    values = rows.select_columns([column]).with_format("arrow")[:][column]
    feature, kind = rows.features[column], str(values.type)
    if kind != "null" and not re.fullmatch("bool|u?int[0-9]+|float|double|halffloat", kind):
        hint = f": `dataset.class_encode_column({column!r})` numbers them" if "string" in kind else ""
        raise ValueError(f"label_column: {where}: {column!r} has {_type_name(feature)}, not integers{hint}")
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy())[0])
        raise ValueError(f"{where}: row {row} has no label in {column!r} ({values.null_count:,} such rows)")
    labels = values.to_numpy()
    if labels.dtype.kind == "f" and (wrong := np.flatnonzero(~np.isfinite(labels) | (labels != np.floor(labels)))).size:
        row = int(wrong[0])
        raise ValueError(f"{where}: row {row} has the label {labels[row]}, which is not an integer")
    return labels


def _type_name(feature: Any) -> str:
    """The type of a column in words: "int64", "List"."""
    return str(getattr(feature, "dtype", "")) or type(feature).__name__


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
            with hub_retries(path):
                return datasets.load_dataset(path, split=split)
        if parquet := sorted(
            str(file) for parent in (folder, folder / "data") for file in parent.glob(f"{split}-*.parquet")
        ):
            return datasets.load_dataset("parquet", data_files={split: parquet}, split=split)
        loaded = datasets.load_from_disk(str(folder))
    except NoAnswer:
        raise ValueError(f"{path}: the Hugging Face hub cannot be reached") from None
    except Exception as error:  # pyarrow, fsspec and the hub raise errors of many classes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a dataset that `datasets` can open: {reason}") from None
    if isinstance(loaded, dict) and split not in loaded:
        raise ValueError(f"{path}: has no split {split!r}, it has {', '.join(map(repr, loaded))}")
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: has no splits: save a DatasetDict, as returned by `train_test_split`")
    return loaded[split]
