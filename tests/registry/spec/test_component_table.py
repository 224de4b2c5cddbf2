"""Tables: schema from a constructor's signature, plug-ins, building."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ulzoo.registry.spec import components
from ulzoo.registry.spec.component_table import Choice, ComponentConfig, Table, argument_help


class Conv:
    """A stack of convolutions.

    More about it.

    Args:
        dims: number of spatial dimensions.
        channels: channels of every level,
            from the finest to the coarsest.
        patch (int): side of a patch.

    Raises:
        ValueError: never.
    """

    def __init__(
        self,
        dims: int,
        *,
        channels: tuple[int, ...],
        patch: Annotated[int, Field(ge=1)] = 2,
        norm: Literal["rms", "layer"] = "rms",
        bias: bool = True,
    ):
        self.dims, self.channels, self.patch, self.norm, self.bias = dims, channels, patch, norm, bias


class Identity:
    def __init__(self, dims: int):
        self.dims = dims


class Derived(Conv):
    """Inherits its constructor."""


class Unannotated:
    def __init__(self, *, patch=2):
        pass


@pytest.fixture
def table() -> Table:
    return Table("encoder", {"conv": Conv, "identity": Identity, "derived": Derived})


def test_get_resolves_import_strings_and_classes(table):
    assert table.get("conv") is Conv
    assert Table("thing", {"path": "pathlib:Path"}).get("path") is Path


def test_unknown_kind_is_an_error_with_a_suggestion(table):
    with pytest.raises(ValueError, match=r"^unknown encoder 'cnov'; did you mean 'conv'\?$"):
        table.get("cnov")
    with pytest.raises(ValueError, match="expected one of: conv, identity, derived"):
        table.get("xyz")


def test_config_holds_the_keyword_only_parameters_and_their_help(table):
    fields = table.config("conv").model_fields
    assert list(fields) == ["kind", "channels", "patch", "norm", "bias"]
    assert fields["channels"].is_required()
    assert (fields["patch"].default, fields["norm"].default, fields["bias"].default) == (2, "rms", True)
    assert fields["channels"].description == "channels of every level, from the finest to the coarsest."
    assert fields["patch"].description == "side of a patch."
    assert table.config("conv") is table.config("conv")
    assert list(table.config("identity").model_fields) == ["kind"]
    assert list(table.config("derived").model_fields) == list(fields)


def test_config_checks_types_bounds_and_keys_and_is_frozen(table):
    config = table.config("conv").model_validate({"kind": "conv", "channels": [1, 2], "bias": "no"})
    assert config.channels == (1, 2) and config.bias is False
    for wrong in ({"patch": 0}, {"patch": "two"}, {"pach": 2}, {"norm": "batch"}, {"kind": "identity"}):
        with pytest.raises(ValidationError):
            table.config("conv").model_validate({"channels": [1], **wrong})
    with pytest.raises(ValidationError, match="frozen"):
        config.patch = 3


def test_a_parameter_without_annotation_is_refused():
    with pytest.raises(ValueError, match=r"encoder 'bad': parameter 'patch' of Unannotated has no type annotation"):
        Table("encoder", {"bad": Unannotated}).config("bad")


def test_build_passes_positional_from_the_compiler_and_keys_from_the_config(table):
    built = table.build(table.config("conv")(channels=(4, 8), patch=4), 3)
    assert isinstance(built, Conv)
    assert (built.dims, built.channels, built.patch, built.norm, built.bias) == (3, (4, 8), 4, "rms", True)
    assert table.build(table.config("identity")(), dims=2).dims == 2


def test_union_discriminates_on_kind(table):
    adapter = TypeAdapter(table.union())
    assert isinstance(adapter.validate_python({"kind": "identity"}), table.config("identity"))
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "other"})
    assert set(adapter.json_schema()["discriminator"]["mapping"]) == {"conv", "identity", "derived"}


def test_choice_validates_one_component_and_imports_no_other():
    table = Table("encoder", {"conv": Conv, "broken": "no.such.module:Thing"})

    class Holder(BaseModel):
        encoder: Annotated[ComponentConfig, Choice(table, default="conv")]

    holder = Holder.model_validate({"encoder": {"channels": [3]}})
    assert holder.encoder == table.config("conv")(channels=(3,))
    assert holder.model_dump()["encoder"] == {
        "kind": "conv", "channels": (3,), "patch": 2, "norm": "rms", "bias": True,
    }  # fmt: skip
    assert Holder(encoder=holder.encoder) == holder
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"encoder": {"kind": "conv", "channels": [3, "x"]}})
    assert caught.value.errors()[0]["loc"] == ("encoder", "channels", 1)


def test_choice_may_allow_some_kinds_only(table):
    class Holder(BaseModel):
        encoder: Annotated[ComponentConfig, Choice(table, only=("identity",), why="the rest is slow")]

    assert Holder.model_validate({"encoder": {"kind": "identity"}}).encoder.kind == "identity"
    with pytest.raises(ValidationError, match="only identity is allowed here: the rest is slow"):
        Holder.model_validate({"encoder": {"kind": "conv", "channels": [3]}})
    with pytest.raises(ValidationError, match="missing key 'kind': one of identity"):
        Holder.model_validate({"encoder": {}})
    assert Holder.model_json_schema()["properties"]["encoder"]["title"] == "encoder_identity"


def test_argument_help_of_a_constructor_docstring():
    class Thing:
        def __init__(self, *, a: int, b: int):
            """Make one.

            Args:
                a: first: the one
                    that counts.

                b: second.
            """

    assert argument_help(Thing) == {"a": "first: the one that counts.", "b": "second."}
    assert argument_help(Identity) == {}


# ----------------------------------------------------------------------------------------------------------- plug-ins


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Simulate an installed package with these entry points."""

    def install(package: str, **points: str) -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        info.joinpath("entry_points.txt").write_text(f"[ulzoo.components]\n{lines}")
        tmp_path.joinpath(f"{package}.py").write_text(
            "class Mine:\n    def __init__(self, dims: int, *, width: int = 3):\n        self.width = width\n"
        )

    monkeypatch.syspath_prepend(str(tmp_path))
    return install


def test_a_plugin_adds_a_component(install, table):
    install("zoo_extra", **{"encoder.mine": "zoo_extra:Mine", "backbone.other": "zoo_extra:Missing"})
    assert table.kinds() == ("conv", "identity", "derived", "mine")
    assert table.build(table.config("mine")(width=5), 2).width == 5


def test_a_plugin_that_takes_a_built_in_name_is_refused(install, table):
    install("zoo_thief", **{"encoder.conv": "zoo_thief:Mine"})
    with pytest.raises(ValueError, match="package 'zoo_thief' adds encoder 'conv', a name that ulzoo already has"):
        table.kinds()


def test_two_plugins_with_one_name_are_refused(install, table):
    install("zoo_one", **{"encoder.mine": "zoo_one:Mine"})
    install("zoo_two", **{"encoder.mine": "zoo_two:Mine"})
    with pytest.raises(ValueError, match=r"packages 'zoo_(one|two)' and 'zoo_(one|two)' both add encoder 'mine'"):
        table.kinds()


def test_a_plugin_that_cannot_be_imported_is_an_error_only_when_used(install, table):
    install("zoo_broken", **{"encoder.mine": "zoo_broken:Missing"})
    assert table.get("conv") is Conv
    with pytest.raises(ValueError, match="encoder 'mine' of package 'zoo_broken' cannot be imported"):
        table.get("mine")


# ---------------------------------------------------------------------------------------------- ulzoo's own components

TABLES = [components.ENCODERS, components.BACKBONES, components.SCHEDULES, components.WEIGHTINGS, components.DATASETS]


@pytest.mark.parametrize(("table", "kind"), [(table, kind) for table in TABLES for kind in table.entries])
def test_every_component_has_a_schema_with_help_for_every_key(table, kind):
    config = table.config(kind)
    assert config.__doc__
    assert not [name for name, field in config.model_fields.items() if not field.description]


def test_importing_the_registry_imports_no_torch():
    code = "import sys, ulzoo.registry.spec.loading; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
