"""A mistaken call of a public method raises a ValueError or TypeError of ulzoo with one printable line.

A call is a valid one in which an argument, or two, is replaced by one of another type, shape, dtype, device or range.
`INPUTS=3000 pytest tests/fuzz/test_method_calls.py --hypothesis-profile=fuzz` tries that many, other
ones each time.
"""

import inspect
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ulzoo
from ulzoo import UnifiedLatents
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Sampling
from ulzoo.registry import list_models, load_spec, optimize_for_inference
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.export import save_export

FOLDERS = [str(Path(inspect.getfile(module)).resolve().parent) for module in (ulzoo, inspect.getmodule(load_spec))]
FOLDERS += [str(Path(inspect.getfile(compile_model)).resolve().parent), str(Path(__file__).resolve().parent)]
Values = dict[str, Any]


@pytest.fixture(scope="module")
def models(tiny, tiny_video) -> dict[str, UnifiedLatents]:
    captions = ("data.text_tokens=4", "data.text_width=6", "base.text_conditional=true")
    specs = {
        "images": tiny(),
        "captions": tiny(*captions),
        "clips": tiny_video(),
        "single": tiny("base=null", "train.base=null"),
    }
    return {name: compile_model(spec) for name, spec in specs.items()}


# --- valid calls

METHODS = {
    "encode": ("x", "generator"),
    "noise_latents": ("z_clean", "generator", "logsnr"),
    "decode": ("z_0", "labels", "frames", "text", "steps", "generator"),
    "reconstruct": ("x", "labels", "frames", "text", "steps", "generator"),
    "sample": ("n", "labels", "frames", "text", "guidance", "steps", "generator", "batch_size", "progress", "seeds"),
    "sample_latents": ("n", "conditions", "sampling", "generator", "network"),
    "rate": ("x", "samples", "generator", "network", "labels", "text"),
}
N = 2


def valid_arguments(method: str, model: UnifiedLatents) -> Values:
    """Arguments that the method takes, as few as possible."""
    contract, arguments = model.contract, Values()
    frames = torch.zeros(N, contract.channels, contract.context_frames, *contract.size[1:])
    match METHODS[method][0]:
        case "x":
            arguments["x"] = torch.zeros(N, *contract.shape)
        case "n":
            arguments["n"] = N
        case name:
            arguments[name] = torch.zeros(N, *contract.latent_shape)
    if contract.context_frames and "frames" in METHODS[method]:
        arguments["frames"] = frames
    if contract.context_frames and "conditions" in METHODS[method]:
        arguments["conditions"] = Conditions(frames=frames)
    return arguments


# --- mistakes

OTHER = [
    *("x", b"x", "", [], {}, set(), (), [None], object, object(), 1j, np.zeros(2), np.float32("nan"), Path("x")),
    *(torch.float32, torch.device("cpu"), lambda: None, "é\n\0", [[0], [0, 1]], 10**400, slice(2), Sampling),
]
NO_COUNTS = [0, -1, -(10**30), 1.5, 2.0, float("nan"), float("inf"), True, torch.tensor(2), np.array([2]), *OTHER]
DTYPES = [torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]


def wrong_tensor(rng: Random, right: torch.Tensor, name: str) -> Any:
    """Anything but a tensor of that shape, dtype, device and range."""
    values = {"x": [1e4, -255.0], "frames": [1e4, -255.0]}.get(name, [])
    values += [float("nan"), float("inf")] if name not in ("z_clean", "logsnr") else []
    rows = [right[:1].expand(5, *right.shape[1:])] if name in ("frames", "logsnr") else []
    mistakes: list[Callable[[], Any]] = [
        lambda: rng.choice([3, 0.5, True, *OTHER]),
        lambda: right.to(rng.choice(DTYPES)),
        lambda: right.to("meta"),
        lambda: right.to_sparse(),
        lambda: right.numpy(),
        lambda: right.tolist(),
        lambda: rng.choice([right[None], right.expand(3, *right.shape), right.sum(), *rows]),
        lambda: torch.cat([right, right], dim=1) if right.ndim > 1 else right[:, None],
        lambda: right[:, :0] if right.ndim > 1 else right[:0],
        lambda: torch.full_like(right, rng.choice(values)) if values else right.double().long(),
    ]
    return rng.choice(mistakes)()


def wrong_labels(rng: Random) -> Any:
    labels = [["x", "y"], [0.5, 1.0], [0], [0, 1, 1], [0, 99], [0, -2], [0, 10**30], [[0, 1]], [None, 1], [True, False]]
    tensors = [torch.tensor([0.0, 1.0]), torch.tensor([[0, 1]]), torch.tensor([True, False]), torch.tensor([0, 99])]
    return rng.choice([*labels, *tensors, 3, 0.5, torch.tensor(1), torch.zeros(2, device="meta"), *OTHER])


def wrong_text(rng: Random, model: UnifiedLatents) -> Any:
    tokens, width = model.contract.text_tokens or 4, model.contract.text_width or 6
    right = Text(torch.zeros(N, tokens, width), torch.ones(N, tokens, dtype=torch.bool))
    wrong = [
        Text(right.tokens[:1], right.mask),
        Text(right.tokens, right.mask.float()),
        Text(right.tokens + 1j, right.mask),
    ]
    wrong += [Text(right.tokens / 0, right.mask), Text(right.tokens[..., :1], right.mask), Text("x", "y")]
    wrong += [Text(right.tokens, right.mask[:, :1]), Text(right.tokens.long(), right.mask), tuple(right), right.tokens]
    return rng.choice([*wrong, *([] if model.contract.text_tokens else [right]), *OTHER])


def wrong_sampling(rng: Random) -> Any:
    fields = {
        "sampler": ["euler", 3, None, [], "DDIM"],
        "steps": NO_COUNTS,
        "guidance": ["x", None, float("nan"), 1j, [1.0]],
        "guidance_interval": [3, (1,), ("a", "b"), (None, 1.0), (5.0, -5.0), (0.0, float("nan"))],
    }
    name = rng.choice(list(fields))
    return rng.choice([Sampling(**{name: rng.choice(fields[name])}), "ddim", 3, {"steps": 3}, *OTHER])


def mistake(rng: Random, name: str, model: UnifiedLatents, right: Values) -> Any:
    """A value that no method takes for an argument."""
    contract = model.contract
    match name:
        case "x" | "z_0" | "z_clean":
            return wrong_tensor(rng, right[name], name)
        case "frames":
            frames = right.get("frames", torch.zeros(N, contract.channels, 1, *contract.size[-2:]))
            return wrong_tensor(rng, frames, name)
        case "logsnr":
            return wrong_tensor(rng, torch.zeros(N), name)
        case "n" | "samples" | "steps" | "batch_size":
            return rng.choice([*NO_COUNTS, *([None] if name in ("n", "samples") else [])])
        case "labels":
            return wrong_labels(rng)
        case "text":
            return wrong_text(rng, model)
        case "guidance":
            return rng.choice([2.0, -1, float("nan"), float("inf"), True, torch.tensor(2.0), *OTHER])
        case "generator":
            return rng.choice([3, 0.5, np.random.default_rng(0), torch.Generator, [torch.Generator()], *OTHER])
        case "network":
            return rng.choice(["encoder", "decoder", "Base", 3, torch.zeros(2), *OTHER])
        case "conditions":
            wrong = [
                Conditions(labels=wrong_labels(rng)),
                Conditions(text=wrong_text(rng, model)),
                [0, 1],
                {"labels": [0, 1]},
            ]
            return rng.choice([*wrong, 3, *OTHER])
        case "sampling":
            return wrong_sampling(rng)
        case "progress":
            return rng.choice([0, 1, "yes", *OTHER])
        case "seeds":
            return rng.choice([3, [0], [0, 1, 2], [0, -1], [0, 2**64], [0.0, 1.0], [True, False], "01", *OTHER])
    raise AssertionError(name)


def mistaken_call(rng: Random, models: dict[str, UnifiedLatents]) -> tuple[str, Callable[[], object]]:
    """A call of a method with a mistake in one argument, or in two, and its description."""
    model_name, method = rng.choice(list(models)), rng.choice(list(METHODS))
    model = models[model_name]
    arguments = valid_arguments(method, model)
    names = rng.sample(METHODS[method], k=rng.choice([1, 1, 1, 2]))
    arguments |= {name: mistake(rng, name, model, arguments) for name in names}
    if rng.random() < 0.05:
        arguments = rng.choice([{}, arguments | {"colour": 1}, arguments | {"labels ": None}])
    description = f"{method} of {model_name}: {', '.join(f'{name}={arguments.get(name)!r}'[:200] for name in names)}"
    return description, lambda: getattr(model, method)(**arguments)


def check_error(description: str, call: Callable[[], object]) -> None:
    try:
        result = call()
    except (ValueError, TypeError) as error:
        message, innermost = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
        assert message and message.isprintable(), (description, message)
        assert any(os.path.realpath(innermost).startswith(folder) for folder in FOLDERS), (
            description,
            innermost,
            message,
        )
    except Exception as error:
        raise AssertionError(f"{description}: {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{description}: no error, but {type(result).__name__}")


@given(seed=st.integers(0, 2**64 - 1))
def test_mistaken_calls_of_a_model(models, seed):
    check_error(*mistaken_call(Random(seed), models))


def test_valid_calls(models):
    """The calls that mistakes are put into."""
    for name, model in models.items():
        for method in METHODS:
            if name != "single" or method not in ("sample", "sample_latents"):
                getattr(model, method)(**valid_arguments(method, model))


# --- functions

PATHS = [
    "",
    "nowhere",
    "a/b.yaml",
    "\0",
    "x" * 5000,
    3,
    None,
    0.5,
    b"emoji32_tiny",
    ["emoji32_tiny"],
    {},
    object(),
    "hf://",
]
PATHS += ["hf://x", "released:", "released:x", "é\n", "..", "/", "~", "/dev/null", torch.zeros(1)]
DEVICES = [
    "",
    "banana",
    "cuda:99",
    "cpu:x",
    "gpu",
    3,
    -1,
    0.5,
    [],
    {},
    object(),
    torch.float32,
    "CPU",
    "cuda:-1",
    "meta:x",
]
DEVICES += [] if torch.cuda.is_available() else ["cuda", torch.device("cuda"), torch.device("cuda:1")]
NO_DTYPES = [device for device in DEVICES if device is not torch.float32]
TARGETS = [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, *NO_DTYPES]
OVERRIDES = ["a=1", b"a=1", 3, [3], ["a"], ["=1"], ["nowhere.x=1"], {"a": 1}, [None], object(), ["decoder=3"]]


@pytest.fixture(scope="module")
def exported(models, tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    save_export(path, models["images"], tiny(), {})
    return path


@settings(max_examples=max(50, settings.default.max_examples // 3))
@given(seed=st.integers(0, 2**64 - 1))
def test_mistaken_calls_of_functions(models, exported, seed):
    rng, model = Random(seed), models["images"]
    path, device, target, overrides = (rng.choice(values) for values in (PATHS, DEVICES, TARGETS, OVERRIDES))
    other_dtype = rng.choice(NO_DTYPES)
    other = rng.choice([value for value in OTHER if not isinstance(value, str)])
    calls: dict[str, Callable[[], object]] = {
        f"load({path!r})": lambda: ulzoo.load(path),
        f"load(device={device!r})": lambda: ulzoo.load(exported, device=device),
        f"load_spec({path!r})": lambda: load_spec(path),
        f"load_spec(overrides={overrides!r})": lambda: load_spec("emoji32_tiny", overrides),
        f"create_model({path!r})": lambda: ulzoo.create_model(path),
        f"create_model(overrides={overrides!r})": lambda: ulzoo.create_model("emoji32_tiny", overrides=overrides),
        f"list_models({other!r})": lambda: list_models(other),
        f"to({target!r})": lambda: model.to(target),
        f"to(dtype={other_dtype!r})": lambda: model.to(dtype=other_dtype),
        f"prepare({other!r})": lambda: model.prepare(other),
        f"precision={other!r}": lambda: optimize_for_inference(model, precision=other),
        f"compile={other!r}": lambda: optimize_for_inference(model, compile=other),
        f"optimize({other!r})": lambda: optimize_for_inference(other),
    }
    description = rng.choice(list(calls))
    check_error(description, calls[description])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", [None, 0, torch.device("cuda:1")], ids=str)
def test_a_gpu_that_does_not_exist_is_one_line(models, device):
    with pytest.raises(ValueError, match=r"^to: .*") as error:
        next(iter(models.values())).cuda(device)
    assert len(str(error.value).splitlines()) == 1
