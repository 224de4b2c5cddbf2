"""The spec: canonical form, hash, differences, JSON Schema."""

import copy
import json
import pickle
import subprocess
import sys

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import RESUMABLE, Spec, changed_on_resume, diff, flatten, json_schema
from ulzoo.registry.spec.sections import Section
from ulzoo.registry.spec.yaml_source import parse_yaml
from ulzoo.registry.zoo.catalogue import load_spec

MINIMAL = {
    "name": "minimal",
    "data": {"kind": "emoji3d", "resolution": 32},
    "latent": {"channels": 8, "downsample": [4, 4], "logsnr": 6},
    "encoder": {"kind": "resnet"},
    "prior": {"backbone": {"kind": "vit"}},
    "decoder": {"backbone": {"kind": "uvit"}, "weighting": {"bias": -3, "loss_factor": 2}},
    "base": {"backbone": {"kind": "vit"}, "schedule": {"kind": "linear", "logsnr_min": -12}},
    "train": {
        "latents": {"steps": 1000, "batch_size": 32, "lr": 1},
        "base": {"steps": 1000, "batch_size": 32, "lr": 1e-3},
    },
}


def changed(**changes: object) -> dict:
    """MINIMAL with values at dotted paths; `__` stands for the dot."""
    data = copy.deepcopy(MINIMAL)
    for dotted, value in changes.items():
        *parents, key = dotted.split("__")
        place = data
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = value
    return data


@pytest.fixture(scope="module")
def spec() -> Spec:
    return spec_from_dict(MINIMAL)


def test_defaults_are_resolved(spec):
    assert spec.prior.weighting.kind == "elbo"
    assert spec.base.weighting.kind == spec.decoder.weighting.kind == "sigmoid"
    assert spec.decoder.weighting.bias == -3.0
    assert spec.prior.schedule.kind == "cosine"
    assert spec.prior.schedule.logsnr_max == spec.base.schedule.logsnr_max == spec.latent.logsnr == 6.0
    assert spec.base.schedule.logsnr_min == -12.0
    assert (spec.sample.base.sampler, spec.sample.base.steps) == ("dpmpp_2m_sde", 32)
    assert (spec.sample.decoder.sampler, spec.sample.decoder.steps) == ("ddpm", 16)


def test_resolved_spec_round_trips_as_dict_json_and_yaml(spec):
    assert spec_from_dict(spec.to_dict()) == spec
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec_from_dict(parse_yaml(spec.to_yaml(), "f").plain()) == spec
    assert Spec.model_validate(spec.model_dump()) == spec


@given(
    lr=st.floats(1e-12, 1e6),
    betas=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    seed=st.integers(0, 2**63 - 1),
    description=st.text(st.characters(exclude_categories=["Cs"])),
    clip=st.none() | st.floats(1e-9, 1e9),
)
@settings(deadline=None, max_examples=50)
def test_a_written_spec_loads_as_the_same_spec(tmp_path_factory, lr, betas, seed, description, clip):
    data = changed(
        train__latents__lr=lr, train__latents__betas=list(betas), train__base__seed=seed,
        train__base__grad_clip=clip, description=description,
    )  # fmt: skip
    spec = spec_from_dict(data)
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(spec.to_yaml(), encoding="utf-8", newline="")
    loaded = load_spec(file)
    assert loaded == spec and loaded.hash == spec.hash and loaded.to_yaml() == spec.to_yaml()


def reordered(data: object, random: object) -> object:
    if not isinstance(data, dict):
        return data
    keys = list(data)
    random.shuffle(keys)
    return {key: reordered(data[key], random) for key in keys}


@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=25)
def test_hash_does_not_depend_on_the_order_of_keys(random):
    assert spec_from_dict(reordered(MINIMAL, random)).hash == spec_from_dict(MINIMAL).hash


def test_hash_ignores_spelling_and_description_only(spec):
    same = [
        changed(train__latents__lr=1.0, latent__logsnr=6.0, train__latents__steps=1e3),
        changed(description="other words"),
        changed(prior__weighting={"kind": "elbo"}, train__base__decay="cosine", prior__schedule={"logsnr_max": 6}),
        spec.to_dict(),
    ]
    assert {spec_from_dict(data).hash for data in same} == {spec.hash}
    others = [changed(name="other"), changed(train__latents__lr=1.001), changed(encoder__kind="vit")]
    assert len({spec.hash, *(spec_from_dict(data).hash for data in others)}) == 4
    assert len(spec.hash) == 64


def test_the_identity_of_the_data_is_the_same_on_every_machine():
    def identity(**keys: object) -> dict:
        return spec_from_dict(changed(data={"kind": "image_folder", "resolution": 32, **keys})).data_identity()

    expected = identity(root="here")
    assert "hflip" in expected and expected.keys().isdisjoint({"root", "download", "verify"})
    assert identity(root="elsewhere") == identity(root="here", verify=False) == identity(root="here", verify=True)
    assert identity(root="here", verify=True) == expected != identity(root="here", hflip=False)


def test_diff_names_what_differs(spec):
    assert diff(spec, spec) == {}
    other = spec_from_dict(changed(latent__downsample=[8, 8], base__schedule={"kind": "shifted_cosine", "shift": 1}))
    assert diff(spec, other) == {
        "latent.downsample": ([4, 4], [8, 8]),
        "base.schedule.kind": ("linear", "shifted_cosine"),
        "base.schedule.logsnr_min": (-12.0, -10.0),
        "base.schedule.shift": (None, 1.0),
    }


def test_resuming_allows_length_logging_and_hardware_only(spec):
    allowed = changed(
        description="x", sample__base__steps=7, sample__decoder__sampler="ddpm", train__tensorboard=True,
        train__latents__steps=5, train__base__log_every=1, train__base__checkpoint_every=9,
        train__latents__compile=True, train__base__workers=3,
    )  # fmt: skip
    assert changed_on_resume(spec, spec_from_dict(allowed)) == []
    refused = spec_from_dict(changed(train__base__lr=1e-4, encoder__kind="vit", train__latents__steps=5))
    lines = changed_on_resume(spec, refused)
    assert "train.base.lr: 0.001 -> 0.0001" in lines and 'encoder.kind: "resnet" -> "vit"' in lines
    assert not any("steps" in line for line in lines)


def test_every_pattern_of_the_allow_list_matches_a_key():
    from fnmatch import fnmatchcase

    sources = [{"kind": "emoji3d"}, {"kind": "image_folder", "root": "x", "resolution": 32},
               {"kind": "fashion_mnist", "root": "x"},
               {"kind": "image_files", "paths": ["x"], "resolution": 32}]  # fmt: skip
    specs = [changed(data=data) for data in sources] + [changed(train__latents__data=data) for data in sources]
    specs.append(changed(train__base__data={"kind": "latents", "path": "x"}))
    specs.append(changed(train__parallel={"kind": "fsdp"}))
    specs.append(changed(init={"model": "x"}))
    paths = [path for spec in specs for path in flatten(spec_from_dict(spec).to_dict())]
    assert not [pattern for pattern in RESUMABLE if not any(fnmatchcase(path, pattern) for path in paths)]


@pytest.mark.parametrize(
    "changes",
    [
        {"train__latents__steps": 0},
        {"train__latents__batch_size": 0},
        {"train__latents__lr": 0},
        {"train__latents__ema": 1},
        {"train__latents__ema": -0.1},
        {"train__latents__betas": [0.9, 1.0]},
        {"train__latents__precision": "fp16"},
        {"train__latents__grad_clip": 0},
        {"train__latents__accumulate": 5},
        {"train__latents__optimizer": "no_such_optimizer"},
        {"train__base__prior_warmup_steps": 3},
        {"train__base__seed": -1},
        {"prior__label_dropout": 1},
        {"prior__weighting": {"kind": "sigmoid"}},
        {"prior__prediction": "z"},
        {"prior__schedule": {"kind": "cosine", "logsnr_max": 5}},
        {"latent__downsample": [4]},
        {"latent__downsample": [4, 4, 4, 4]},
        {"latent__downsample": [0, 4]},
        {"latent__channels": 0},
        {"latent__logsnr": float("nan")},
        {"sample__base__guidance_interval": [2, 1]},
        {"sample__base__sampler": "euler"},
        {"name": "a/b"},
        {"name": ""},
    ],
)
def test_values_out_of_bounds_are_refused(changes):
    with pytest.raises(ValidationError):
        Spec.model_validate(changed(**changes))


def test_a_spec_is_frozen_and_hashable(spec):
    with pytest.raises(ValidationError):
        spec.name = "other"
    assert {spec: 1}[spec_from_dict(MINIMAL)] == 1


def test_every_key_has_help():
    def keys(model: type[Section]):
        for name, field in model.model_fields.items():
            yield model.__name__, name, field.description
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                yield from keys(field.annotation)

    assert not [(model, name) for model, name, description in keys(Spec) if not description]


# -------------------------------------------------------------------------------------------------------- JSON Schema


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_json_schema_accepts_specs_and_differences(validator, spec):
    validator.validate(spec.to_dict())
    validator.validate(MINIMAL)
    validator.validate({"extends": "other", "encoder": {"patch": 4}, "train": {"latents": {"steps": 5}}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"nam": "x"},
        {"encoder": {"kind": "resnet", "no_such_key": 3}},
        {"encoder": {"kind": "unknown"}},
        {"prior": {"weighting": {"kind": "sigmoid"}}},
        {"train": {"latents": {"steps": "many"}}},
        {"extends": ["a", "b"]},
    ],
)
def test_json_schema_rejects_invalid_specs(validator, wrong):
    assert not validator.is_valid(wrong)


def test_json_schema_has_descriptions(validator):
    schema = validator.schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert next(iter(schema["properties"])) == "extends"
    assert "required" not in schema
    assert schema["properties"]["name"]["description"]
    assert schema["$defs"]["encoder_resnet"]["properties"]["channels"]["description"]


PICKLED = ("emoji32_tiny", "emoji_video64_tiny", "imagenet512_medium", "text2image512_300g")


@pytest.mark.parametrize("name", PICKLED)
def test_a_spec_survives_pickling_and_copying(name):
    spec = load_spec(name)
    for duplicate in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec)):
        assert duplicate == spec and duplicate.hash == spec.hash
        assert type(duplicate.encoder) is type(spec.encoder)


@pytest.mark.slow
def test_specs_survive_pickling_for_another_process():
    specs = [load_spec(name) for name in PICKLED]
    code = "import pickle, sys; [print(pickle.load(sys.stdin.buffer).hash) for _ in range(int(sys.argv[1]))]"
    command = [sys.executable, "-c", code, str(len(specs))]
    elsewhere = subprocess.run(command, input=b"".join(map(pickle.dumps, specs)), capture_output=True, check=True)
    assert elsewhere.stdout.decode().split() == [spec.hash for spec in specs]
