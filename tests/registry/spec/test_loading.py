"""Loading: names and paths, `extends`, overrides, and located errors."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ulzoo.registry.spec import loading as spec_module
from ulzoo.registry.spec.loading import SpecError, find_specs, spec_from_dict
from ulzoo.registry.zoo.catalogue import load_spec

FULL = """\
name: full
data: {kind: emoji3d, resolution: 32}
latent: {channels: 8, downsample: [4, 4]}
encoder:
  kind: resnet
  patch: 2
prior: {backbone: {kind: vit}}
decoder:
  backbone: {kind: vit}
  weighting: {kind: sigmoid, bias: 5, loss_factor: 3}
base: {backbone: {kind: vit}}
train:
  latents:
    steps: 1e3
    batch_size: 32
    lr: 2e-3
    compile: no
  base: {steps: 100, batch_size: 64, lr: 1e-3}
"""
ENCODERS = "resnet, vit, identity, diffusers_autoencoder"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a full spec, and one packaged spec."""
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("full.yaml").write_text(FULL)
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    packaged.joinpath("emoji_tiny.yaml").write_text(FULL.replace("name: full", "name: emoji_tiny"))
    monkeypatch.setattr(spec_module, "files", lambda package: packaged)
    return tmp_path


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def error(name_or_path: object, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(name_or_path, overrides)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --------------------------------------------------------------------------------------------------- names and extends


def test_a_path_or_a_packaged_name_loads():
    spec = load_spec("full.yaml")
    assert (spec.name, spec.train.latents.steps, spec.train.latents.compile) == ("full", 1000, False)
    assert load_spec(Path("full.yaml")) == spec
    assert load_spec("emoji_tiny").name == "emoji_tiny"
    assert list(find_specs()) == ["emoji_tiny"]


def test_missing_specs_are_errors_with_a_suggestion():
    assert error("emoji_tinny") == "there is no spec named 'emoji_tinny'; did you mean 'emoji_tiny'?"
    assert error("xyz") == "there is no spec named 'xyz'; expected one of: emoji_tiny"
    assert error("fulll.yaml") == "fulll.yaml: no such file; did you mean 'full.yaml'?"
    assert error("specs/emoji_tiny.yaml") == (
        "specs/emoji_tiny.yaml: no such file; the spec 'emoji_tiny' is packaged: give its name alone"
    )
    assert error("./packaged") == "./packaged: not a file"
    assert error(Path("packaged")) == "packaged: not a file"
    assert error("x\0y.yaml").endswith("no file can have this name")
    assert error("a/" + "b" * 300 + ".yaml").endswith("no file can have this name")


def test_extends_merges_deep_by_path_and_by_name():
    write("sub/child.yaml", "extends: ../full.yaml\nname: child\nencoder: {patch: 4}\nlatent: {downsample: [8, 8]}\n")
    write("grandchild.yaml", "extends: sub/child.yaml\nencoder: {kind: vit}\ntrain: {latents: {lr: 1}}\n")
    child, grandchild = load_spec("sub/child.yaml"), load_spec("grandchild.yaml")
    assert (child.name, child.encoder.patch, child.latent.downsample) == ("child", 4, (8, 8))
    assert child.train == load_spec("full.yaml").train
    assert (grandchild.name, grandchild.encoder.kind) == ("child", "vit")
    assert (grandchild.train.latents.lr, grandchild.train.latents.steps) == (1.0, 1000)
    write("by_name.yaml", "extends: emoji_tiny\n")
    assert load_spec("by_name.yaml") == load_spec("emoji_tiny")


def test_wrong_extends_are_refused_with_the_chain():
    write("a.yaml", "name: a\nextends: b.yaml\n")
    write("b.yaml", "extends: c/c.yaml\n")
    write("c/c.yaml", "\nextends: ../a.yaml\n")
    assert error("a.yaml") == "c/c.yaml:2: extends: circular: a.yaml -> b.yaml -> c/c.yaml -> a.yaml"
    write("self.yaml", "extends: ./self.yaml\n")
    assert error("self.yaml") == "self.yaml:1: extends: circular: self.yaml -> self.yaml"
    write("c/c.yaml", "extends: fill.yaml\n")
    assert error("a.yaml") == "c/c.yaml:1: extends: no such file 'c/fill.yaml' (a.yaml -> b.yaml -> c/c.yaml)"
    write("d.yaml", "extends: emoji_tony\n")
    assert error("d.yaml") == "d.yaml:1: extends: there is no spec named 'emoji_tony'; did you mean 'emoji_tiny'?"
    for wrong in ("[full.yaml]", "", "3", "{a: b}"):
        write("e.yaml", f"name: e\nextends: {wrong}\n")
        assert error("e.yaml") == "e.yaml:2: extends: expected the name or path of one spec"
    assert error("full.yaml", "extends=emoji_tiny").startswith("--set extends=emoji_tiny: unknown key")


# ----------------------------------------------------------------------------------------------------------- overrides


def test_overrides_apply_last_and_their_order_among_kinds_does_not_matter():
    spec = load_spec("full.yaml", ["train.latents.steps=7", "latent.downsample=[8, 8]", "decoder.weighting.bias=-1"])
    assert (spec.train.latents.steps, spec.latent.downsample) == (7, (8, 8))
    assert (spec.decoder.weighting.bias, spec.decoder.weighting.loss_factor) == (-1.0, 3.0)
    for overrides in (["encoder.kind=vit", "encoder.depth=3"], ["encoder.depth=3", "encoder.kind=vit"]):
        encoder = load_spec("full.yaml", overrides).encoder
        assert (encoder.kind, encoder.depth) == ("vit", 3)
    assert load_spec("full.yaml", ["name=x", "name=y"]).name == "y"


def test_overrides_may_add_keys_of_the_schema():
    spec = load_spec("full.yaml", ["sample.base.steps=9", "base.weighting.bias=-2", "train.base.grad_clip=null"])
    assert (spec.sample.base.steps, spec.base.weighting.bias, spec.train.base.grad_clip) == (9, -2.0, None)


def test_the_latent_logsnr_reaches_prior_and_base():
    spec = load_spec("full.yaml", ["latent.logsnr=4", "base.schedule.kind=linear"])
    assert spec.prior.schedule.logsnr_max == spec.base.schedule.logsnr_max == 4.0
    assert spec.decoder.schedule.logsnr_max != 4.0
    assert load_spec("full.yaml", ["prior.schedule.logsnr_max=5"]) == load_spec("full.yaml")


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name:", "nam:", "full.yaml:1: nam: unknown key; did you mean 'name'?"),
        ("    steps:", "    stepz:", "full.yaml:14: train.latents.stepz: unknown key; did you mean 'steps'?"),
        ("patch: 2", "pach: 2", "full.yaml:6: encoder.pach: unknown key; did you mean 'patch'?"),
        ("resnet", "resnt", "full.yaml:5: encoder.kind: unknown encoder 'resnt'; did you mean 'resnet'?"),
        ("resnet", "x", f"full.yaml:5: encoder.kind: unknown encoder 'x'; expected one of: {ENCODERS}"),
        ("  kind: resnet\n", "", f"full.yaml:4: encoder: missing key 'kind': one of {ENCODERS}"),
        ("    lr: 2e-3\n", "", "full.yaml:13: train.latents: missing key 'lr'"),
        ("base: {backbone: {kind: vit}}\n", "", "full.yaml:1: missing key 'base'"),
        ("steps: 1e3", "steps: many", "full.yaml:14: train.latents.steps: expected an integer, got 'many'"),
        ("steps: 1e3", "steps: '5'", "full.yaml:14: train.latents.steps: expected an integer, got '5'"),
        ("steps: 1e3", "steps: true", "full.yaml:14: train.latents.steps: expected an integer, got true"),
        ("steps: 1e3", "steps: 1.5", "full.yaml:14: train.latents.steps: expected an integer, got 1.5"),
        ("steps: 1e3", "steps: 0", "full.yaml:14: train.latents.steps: must be at least 1, got 0"),
        ("steps: 1e3", "steps:", "full.yaml:14: train.latents.steps: expected an integer, got null"),
        ("compile: no", "compile: 1", "full.yaml:17: train.latents.compile: expected true or false, got 1"),
        ("compile: no", "compile: 2", "full.yaml:17: train.latents.compile: expected true or false or 'step', got 2"),
        ("[4, 4]", "4", "full.yaml:3: latent.downsample: expected a list, got 4"),
        ("[4, 4]", "[4]", "full.yaml:3: latent.downsample: expected at least 2 values, got 1"),
        ("[4, 4]", "[4, x]", "full.yaml:3: latent.downsample.1: expected an integer, got 'x'"),
        ("name: full", "name: 3", "full.yaml:1: name: expected text, got 3"),
        ("bias: 5", "bias: [5]", "full.yaml:10: decoder.weighting.bias: expected at least 2 values, got 1"),
        ("bias: 5", "bias: .nan", "full.yaml:10: decoder.weighting.bias: expected a finite number or a list, got nan"),
        ("compile: no", "betas: [0.9]", "full.yaml:17: train.latents.betas: expected at least 2 values, got 1"),
        ("compile: no", "betas: [0, 0, 0]", "full.yaml:17: train.latents.betas: expected at most 2 values, got 3"),
        ("compile: no", "precision: bf", "full.yaml:17: train.latents.precision: expected 'fp32' or 'bf16', got 'bf'"
         "; did you mean 'bf16'?"),
        ("compile: no", "grad_clip: big", "full.yaml:17: train.latents.grad_clip: expected a number, got 'big'"),
        ("compile: no", "optimizer: adamww", "full.yaml:17: train.latents.optimizer: unknown optimizer 'adamww'; did"
         " you mean 'adamw'?"),
        ("compile: no", "accumulate: 5", "full.yaml:17: train.latents.accumulate: 5 does not divide batch_size 32"),
        ("base: {backbone: {kind: vit}}", "base: 3", "full.yaml:11: base: expected a mapping, got 3"),
        ("base: {backbone: {kind: vit}}", "base: {backbone: vit}", "full.yaml:11: base.backbone: expected a mapping,"
         " got 'vit'"),
        ("prior: {", "prior: {schedule: {logsnr_max: 4}, ", "full.yaml:7: prior.schedule.logsnr_max: 4 differs from"
         " latent.logsnr, 5; remove this key, its value is derived"),
        ("prior: {", "prior: {weighting: {kind: sigmoid}, ", "full.yaml:7: prior.weighting.kind: only elbo is allowed"
         " here: under another weight the encoder hides information"),
        ("latent: {", "latent: {logsnr: high, ", "full.yaml:3: latent.logsnr: expected a number, got 'high'"),
        ("latent: {", "latent: [", "full.yaml:3: not valid YAML: while parsing a flow sequence, expected ',' or ']',"
         " but got '}'"),
        ("patch: 2", "kind: vit", "full.yaml:6: kind: duplicate key, first given on line 5"),
    ],
)  # fmt: skip
def test_errors_are_located(old, new, message):
    assert old in FULL
    write("full.yaml", FULL.replace(old, new, 1))
    assert error("full.yaml") == message


def test_the_first_of_several_errors_counts_the_others():
    write("full.yaml", FULL.replace("patch: 2", "pach: 2").replace("lr: 2e-3", "lr: x").replace("bias: 5", "bias: x"))
    assert error("full.yaml") == "full.yaml:6: encoder.pach: unknown key; did you mean 'patch'? (and 2 more)"


def test_errors_name_the_file_of_the_key():
    write("parent.yaml", FULL.replace("patch: 2", "patch: 2\n  pach: 3"))
    write("child.yaml", "extends: parent.yaml\n\ntrain:\n  latents:\n    lr: fast\n")
    assert error("child.yaml") == "parent.yaml:7: encoder.pach: unknown key; did you mean 'patch'? (and 1 more)"
    write("parent.yaml", FULL)
    assert error("child.yaml") == "child.yaml:5: train.latents.lr: expected a number, got 'fast'"
    assert error("child.yaml", "train.latents.lr=slow") == "--set train.latents.lr=slow: expected a number, got 'slow'"
    assert error("full.yaml", "train.latents.stepz=5") == (
        "--set train.latents.stepz=5: unknown key; did you mean 'steps'?"
    )
    assert error("full.yaml", "encoder={kind: vit, dept: 3}") == (
        "--set encoder={kind: vit, dept: 3}: encoder.dept: unknown key; did you mean 'depth'?"
    )
    assert error("full.yaml", "data.kind=image_folder") == (
        "--set data.kind=image_folder: data: missing key 'root' (and 1 more)"
    )


def test_a_spec_locates_later_errors():
    spec = load_spec("full.yaml", ["latent.channels=3"])
    assert str(spec.error("encoder.patch", "3 does not divide 32")) == (
        "full.yaml:6: encoder.patch: 3 does not divide 32"
    )
    assert str(spec.error("encoder.blocks", "too many")) == "full.yaml:4: encoder.blocks: too many"
    assert str(spec.error("latent.channels", "odd")) == "--set latent.channels=3: odd"
    assert str(spec.error("", "too large")) == "full.yaml:1: too large"
    copy = spec_from_dict(spec.to_dict())
    assert copy == spec
    assert str(copy.error("encoder.patch", "odd")) == "encoder.patch: odd"


def test_plain_data_is_checked_too():
    data = load_spec("full.yaml").to_dict()
    for wrong, message in [
        (data | {"nam": "x"}, "nam: unknown key; did you mean 'name'?"),
        ({**data, "latent": {"channels": 3}}, "latent: missing key 'downsample'"),
        ([], "expected a mapping, got a list"),
        (None, "expected a mapping, got null"),
    ]:
        with pytest.raises(SpecError) as caught:
            spec_from_dict(wrong)
        assert str(caught.value) == message


keys = st.sampled_from(["encoder", "kind", "latents", "train", "steps", "0", "x", "schedule", "prior", "data", "name"])
values = st.sampled_from(
    ["1", "x", "[1, 2]", "{kind: vit}", "{}", "null", "{a: [", "1e99", "-1", "{kind: [1]}", "true"]
)


@example([(["train", "latents"], "{kind: [1]}")])
@given(st.lists(st.tuples(st.lists(keys, max_size=4), values | st.text(max_size=4)), min_size=1, max_size=3))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_override_raises_anything_but_a_spec_error(overrides):
    try:
        load_spec("full.yaml", [f"{'.'.join(path)}={value}" for path, value in overrides])
    except SpecError as caught:
        assert len(str(caught).splitlines()) == 1


pieces = st.sampled_from([*FULL.splitlines(keepends=True), "extends: full.yaml\n", "- 1\n", "  x: *a\n", "&a b: {\n"])


@given(st.lists(pieces, max_size=25).map("".join))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_shuffled_file_raises_anything_but_a_spec_error(text):
    write("shuffled.yaml", text)
    try:
        load_spec("shuffled.yaml")
    except SpecError as caught:
        assert len(str(caught).splitlines()) == 1
