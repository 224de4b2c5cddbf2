"""Data that a user gives to a trained model in place of the data that its spec names."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ulzoo.data.source import Source
from ulzoo.data.storage.class_folders import ALL, class_names
from ulzoo.model.contract import Contract
from ulzoo.registry.compile import open_source
from ulzoo.registry.runs.export import Export
from ulzoo.registry.spec.components import DATASETS
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.yaml_source import SpecError, parse_override

HINT = "give --data root=PATH, or --images with a folder or files"


def replace_data(export: Export, images: Sequence[str] = (), settings: Sequence[str] = ()) -> Spec:
    """The model's spec with other data.

    Args:
        images: a folder, or image files. Its class folders are the images' labels if they are exactly the model's.
        settings: keys of the data section as KEY=VALUE. With another `kind` the section is replaced, and the sizes of
            the images or clips are the model's.

    Raises:
        ValueError: both are given, they do not fit the model, or a key is unknown (`SpecError`).
    """
    if images and settings:
        raise ValueError("--images and --data exclude each other: --data kind=image_folder root=DIR sets more keys")
    if images:
        return _with_data(export.spec, _images(export.model.contract, list(images)))
    if not settings:
        return export.spec
    keys: dict[str, Any] = {}
    for text in settings:
        key, equals, _ = text.partition("=")
        if not equals or not key.strip():
            raise SpecError(f"--data {text}: write KEY=VALUE, as in root=DIR")
        if "." in key:
            raise SpecError(f"--data {text}: {key!r} is no key of the data section")
        try:
            keys |= parse_override(text).plain()
        except SpecError as error:
            raise SpecError(str(error).replace("--set ", "--data ", 1)) from None
    kind = keys.get("kind", export.spec.data.kind)
    if kind == export.spec.data.kind:
        return _with_data(export.spec, {**export.spec.data.model_dump(mode="json"), **keys})
    fields = DATASETS.config(kind).model_fields if kind in DATASETS.kinds() else {}
    sizes = {key: value for key, value in _sizes(export.model.contract).items() if key in fields}
    return _with_data(export.spec, {**sizes, **keys})


def default_split(images: Sequence[str] | None) -> str:
    """The split that is measured or drawn unless a command names one: all of the user's images."""
    return ALL if images else "val"


def open_data(export: Export, spec: Spec, split: str, *, samples: bool = False) -> Source:
    """Open a split of the data of `spec`, which `replace_data` returned.

    Args:
        samples: the model will be sampled with the captions of this data, if it takes captions.

    Raises:
        SpecError: the data is missing or damaged, or the model has other shapes, labels or captions.
    """
    try:
        source = open_source(spec, split)
    except SpecError as error:
        root = getattr(spec.locate_data(spec.data, "data"), "root", None)
        if isinstance(root, str) and "://" not in root and not os.path.isdir(os.path.expanduser(root)):
            raise SpecError(f"{error}; {HINT}") from None
        raise
    contract = export.model.contract
    _check(source, contract, spec)
    if samples and contract.text_width and not source.contract.text_width:
        keys = f"text_tokens={contract.text_tokens} text_width={contract.text_width}"
        raise spec.error("data", f"has no captions to sample this model with: give {keys} and NAME.npy by each image")
    return source


def _with_data(spec: Spec, data: dict[str, Any]) -> Spec:
    return spec_from_dict({**spec.to_dict(), "data": data}).with_data_paths(spec.data_paths)


def _sizes(contract: Contract) -> dict[str, Any]:
    """The keys of a data section that follow from a model: the sizes of its images or clips."""
    clips = {"frames": contract.size[0], "frame_rate": contract.frame_rate} if contract.video else {}
    return {"resolution": contract.size[-1], **clips}


def _images(contract: Contract, paths: list[str]) -> dict[str, Any]:
    """The data section of a folder or of files.

    Raises:
        ValueError: there is no such folder or file, several folders, or the model is for clips or greyscale images.
    """
    if contract.video:
        raise ValueError("--images: this is a model of clips; give videos with --data kind=video_folder root=DIR")
    if contract.channels != 3:
        raise ValueError(f"--images: the files are read in RGB, this is a model of {contract.channels}-channel images")
    for path in paths:
        if not os.path.exists(os.path.expanduser(path)):
            raise ValueError(f"--images: {path}: no such file or folder")
    folders = [path for path in paths if os.path.isdir(os.path.expanduser(path))]
    if folders and len(paths) > 1:
        raise ValueError(f"--images: {folders[0]} is a folder: give one folder, or files")
    if not folders:
        return {"kind": "image_files", "paths": paths, **_sizes(contract)}
    names = class_names(Path(paths[0]).expanduser())
    labelled = bool(names) and tuple(names) == contract.label_names
    return {
        "kind": "image_folder",
        "root": paths[0],
        "num_classes": len(names) if labelled else None,
        **_sizes(contract),
    }


def _check(source: Source, contract: Contract, spec: Spec) -> None:
    """Raise SpecError unless examples and labels of the source are those of the model."""
    if source.shape != contract.shape:
        shapes = ["×".join(map(str, shape)) for shape in (source.shape, contract.shape)]
        raise spec.error("data", f"its examples have the shape {shapes[0]}, those of the model {shapes[1]}")
    data = source.contract
    if data.num_classes not in (0, contract.num_classes):
        raise spec.error(
            "data.num_classes", f"the data has {data.num_classes} classes, the model {contract.num_classes}"
        )
    if data.label_names and contract.label_names and data.label_names != contract.label_names:
        pairs = zip(data.label_names, contract.label_names, strict=True)
        label, (mine, trained) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise spec.error(
            "data", f"label {label} is {mine!r} in the data and {trained!r} in the model; leave out labels"
        )
    sizes = [(captions.text_tokens, captions.text_width) for captions in (data, contract)]
    if data.text_width and sizes[0] != sizes[1]:
        raise spec.error("data", f"text_tokens and text_width are {sizes[0]}, those of the model {sizes[1]}")
