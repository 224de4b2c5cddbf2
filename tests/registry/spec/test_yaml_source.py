"""The YAML dialect, locations of keys, merging, overrides."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulzoo.registry.spec.sweep import load_sweep
from ulzoo.registry.spec.yaml_source import (
    MAX_BYTES,
    Node,
    SpecError,
    dump_yaml,
    located,
    merge,
    parse_override,
    parse_overrides,
    parse_yaml,
    read_yaml,
)
from ulzoo.registry.sweeps.engine_local import LocalEngine
from ulzoo.registry.sweeps.jobs import plan_jobs
from ulzoo.registry.sweeps.options import sweep_from_options
from ulzoo.registry.sweeps.store import Store
from ulzoo.registry.zoo.catalogue import create_model, load_spec


def value(text: str) -> object:
    return parse_yaml(text, "f").plain()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("2e3", 2000.0),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),
        ("0x1F", 31),
        ("0b101", 5),
        ("-.inf", float("-inf")),
        ("true", True),
        ("FALSE", False),
        ("tRuE", True),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("", None),
        ("2024-01-02", "2024-01-02"),
        ("12:30:45", "12:30:45"),
        ("=", "="),
        ("e5", "e5"),
        (".", "."),
        ("1e", "1e"),
        ("_1", "_1"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("[1, 2.0, x]", [1, 2.0, "x"]),
        ("{1: a, no: b, ~: c}", {"1": "a", "no": "b", "~": "c"}),
    ],
)
def test_scalars(text, expected):
    got = value(text)
    assert got == expected and type(got) is type(expected)


def test_every_key_and_item_has_a_location():
    tree = parse_yaml("# comment\na: 1\n\nb:\n  c:\n  - 1\n  - d: 2\n", "f.yaml")
    places = {("a",): 2, ("b",): 4, ("b", "c"): 5, ("b", "c", 0): 6, ("b", "c", 1, "d"): 7, ("b", "absent"): 4, (): 2}
    assert {path: tree.place(path) for path in places} == {path: f"f.yaml:{line}" for path, line in places.items()}


def test_errors_have_location_and_key_path():
    tree = parse_yaml("a:\n  b: [1, 2]\n", "f.yaml")
    assert str(located(tree, ("a", "b", 1), "is odd")) == "f.yaml:2: a.b.1: is odd"
    assert str(located(None, ("a", "b"), "is odd")) == "a.b: is odd"
    assert str(located(tree, (), "is\nodd\x1b")) == "f.yaml:1: is odd\\x1b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3: a: duplicate key, first given on line 1"),
        ("x:\n  a: 1\n  'a': 3\n", "f:3: a: duplicate key, first given on line 2"),
        ("a: [1, 2\nb: 3\n", "f:2: not valid YAML: "),
        ("a: b: c\n", "f:1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "f:2: not valid YAML: "),
        ("a: *nowhere\n", "f:1: not valid YAML: found undefined alias 'nowhere'"),
        ("a: 1\n--- \nb: 2\n", "f:2: not valid YAML: "),
        ("a: \x00\n", "f:1: not valid YAML: the character"),
        ('a: "\\UFFFFFFFF"\n', "f:1: not valid YAML: "),
        ('a: "\\uD800"\n', "f:1: "),
        (
            "a: !!python/object:os.system x\n",
            "f:1: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed",
        ),
        ("a: !mine x\n", "f:1: the tag '!mine' is not allowed"),
        ("a: 1\nb: !!int x\n", "f:2: 'x' cannot be read as int"),
        (f"a: {'9' * 5000}\n", "f:1: '999999"),
        ("? [1, 2]\n: 3\n", "f:1: a key must be a scalar"),
        ("a: " + "[" * 100 + "]" * 100, "f:1: not valid YAML: nested too deeply"),
        ("a: [" + "1," * 20_000 + "]", "f:1: not valid YAML: more than 10000 values"),
        ("a: &x [*x]\n", "f:1: aliases expand to more than 10000 values, or refer to themselves"),
        ("a: 1\n<<: 3\n", "f:2: '<<' must be a mapping"),
    ],
)
def test_errors_are_one_line_with_their_location(text, message):
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "f")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_aliases_expand_and_own_keys_override_merge_keys():
    text = "a: &a {x: 1, y: 2}\nb: &b {x: 7, z: 3}\nc: *a\nd:\n  y: 9\n  <<: [*a, *b]\n"
    assert value(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 7, "z": 3}, "c": {"x": 1, "y": 2},
                           "d": {"x": 1, "y": 9, "z": 3}}  # fmt: skip


@pytest.mark.parametrize("item", ["[{}]", "{{<<: [{}]}}"])
def test_an_alias_bomb_is_refused_at_once(item):
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {item.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 12)]
    with pytest.raises(SpecError, match="aliases expand to more than"):
        parse_yaml("\n".join(lines), "f")


def test_read_yaml_needs_a_small_utf8_file_with_a_mapping(tmp_path):
    file = tmp_path / "a.yaml"

    def error() -> str:
        with pytest.raises(SpecError) as caught:
            read_yaml(file, "a.yaml")
        return str(caught.value)

    assert error() == "a.yaml: no such file"
    for content, message in [
        (b"", "a.yaml:1: a spec is a mapping"),
        (b"# nothing\n- 1\n", "a.yaml:2: a spec is a mapping"),
        (b"a: 1\nb: \xff\n", "a.yaml:2: not UTF-8 text"),
        (b"#" * (MAX_BYTES + 1), "a.yaml: larger than 1 MiB"),
    ]:
        file.write_bytes(content)
        assert error().startswith(message)
    file.write_bytes("\ufeffa: é\n".encode())
    assert read_yaml(file, "a.yaml").plain() == {"a": "é"}
    with pytest.raises(SpecError, match="not a file"):
        read_yaml(tmp_path, "folder")


# ------------------------------------------------------------------------------------------------ merging, overriding


def merged(*texts: str) -> object:
    tree, *rest = (parse_yaml(text, f"{n}") for n, text in enumerate(texts))
    for node in rest:
        tree = merge(tree, node)
    return tree.plain()


def test_mappings_are_merged_and_other_values_replaced():
    assert merged("{a: {x: 1, y: 2}, l: [1, 2], s: 1}", "{a: {y: 3}, l: [3], s: {t: 1}}") == {
        "a": {"x": 1, "y": 3}, "l": [3], "s": {"t": 1},
    }  # fmt: skip


def test_a_mapping_of_another_kind_is_replaced():
    assert merged("e: {kind: a, x: 1}", "e: {kind: b, y: 2}") == {"e": {"kind": "b", "y": 2}}
    assert merged("e: {kind: a, x: 1}", "e: {kind: a, y: 2}") == {"e": {"kind": "a", "x": 1, "y": 2}}
    assert merged("e: {kind: a, x: 1}", "e: {x: 2}") == {"e": {"kind": "a", "x": 2}}


def test_merged_keys_keep_their_locations():
    tree = merge(parse_yaml("a:\n  x: 1\n  y: 2\n", "p"), parse_yaml("\n\na:\n  y: 3\n", "c"))
    assert [tree.place(path) for path in (("a", "x"), ("a", "y"), ("a",))] == ["p:2", "c:4", "c:3"]
    tree = merge(tree, parse_override("a.z=1"))
    assert [tree.place(path) for path in (("a", "z"), ("a", "x"), ("a",))] == ["--set a.z=1", "p:2", "c:3"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=1e-3", {"a": {"b": {"c": 1e-3}}}),
        ("a.b=[4, 8]", {"a": {"b": [4, 8]}}),
        ("a={kind: x}", {"a": {"kind": "x"}}),
        ("a=", {"a": None}),
        ("a=b=c", {"a": "b=c"}),
        (" a . b = no", {"a": {"b": "no"}}),
        ("a=run #2", {"a": "run #2"}),
        ("a=#2", {"a": "#2"}),
        ("a=x#y", {"a": "x#y"}),
        ("a= 100 # steps ", {"a": "100 # steps"}),
        ("a='run #2'", {"a": "run #2"}),
        ("a=[x#y, '#']", {"a": ["x#y", "#"]}),
        ("a=|\n # b", {"a": "# b"}),
    ],
)
def test_overrides_are_nested_mappings(text, expected):
    assert parse_override(text).plain() == expected


@pytest.mark.parametrize("text", ["a=[1, 2] # two", "a={x: 1} #", "a='b' # c", 'a="b" # c'])
def test_a_comment_after_a_value_is_refused(text):
    with pytest.raises(SpecError, match=r"^--set .*: '#.*' after the value would be a comment; remove it, or quote"):
        parse_override(text)


def test_a_text_is_no_list_of_overrides():
    assert [node.plain() for node in parse_overrides(("a=1", "b=2"))] == [{"a": 1}, {"b": 2}]
    with pytest.raises(SpecError, match=r"^overrides: expected a list of key\.path=value, .*; write \['a\.b=1'\]$"):
        parse_overrides("a.b=1")
    for value, words in {
        b"a.b=1": "not a text",
        3: "not int",
        None: "not NoneType",
        ("a=1", 2): "but it contains 2",
        ("a=1", None): "but it contains None",
    }.items():
        with pytest.raises(SpecError, match=rf"^overrides: expected a list of key\.path=value, {words}"):
            parse_overrides(value)
    with pytest.raises(SpecError, match="not dict"):
        parse_overrides({"a": 1})


def test_every_function_refuses_a_text_as_overrides():
    sweep = load_sweep("paper/table2_loss_factor")
    for call in (
        lambda: load_spec("emoji32_tiny", "sample.base.steps=1"),
        lambda: load_spec("paper/table2_loss_factor:1.9", "sample.base.steps=1"),
        lambda: create_model("emoji32_tiny", overrides="sample.base.steps=1"),
        lambda: sweep.resolve("sample.base.steps=1"),
        lambda: plan_jobs(sweep, Store(Path("unused")), overrides="sample.base.steps=1"),
        lambda: sweep_from_options(None, {}, "sample.base.steps=1"),
    ):
        with pytest.raises(SpecError, match=r"write \['sample\.base\.steps=1'\]"):
            call()
    with pytest.raises(ValueError, match=r"devices: expected a list of names, not a text; write \['cuda:0'\]"):
        LocalEngine("cuda:0")


@pytest.mark.parametrize("text", ["foo", "=3", "a..b=1", ".a=1", "a.=1", "", "a=[1", "a={x: 1, x: 2}", "a=*b"])
def test_malformed_overrides_are_refused(text):
    with pytest.raises(SpecError) as caught:
        parse_override(text)
    assert str(caught.value).startswith(f"--set {text}: ")


# ---------------------------------------------------------------------------------------------------------- properties

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
data = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
# a key is always a mapping or always a leaf, as in documents of one schema
leaves = st.dictionaries(st.sampled_from(["p", "q", "r"]), st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2))
shaped = st.dictionaries(st.sampled_from(["a", "b"]), leaves)


def node(plain: object) -> Node:
    return parse_yaml(dump_yaml(plain), "f")


@given(st.dictionaries(st.text(), data, max_size=5))
@settings(deadline=None)
def test_dump_and_parse_are_inverse(plain):
    back = value(dump_yaml(plain))
    assert back == plain and repr(back) == repr(plain)


@given(st.text("{}[]:&*-!?|>'\"%@`#,ab1<.~\\ \n\t\r=_") | st.text())
@settings(deadline=None)
def test_garbage_raises_nothing_but_spec_errors(text):
    try:
        parse_yaml(text, "f")
    except SpecError as error:
        assert str(error).startswith("f:") and "\n" not in str(error)


@given(st.binary())
@settings(deadline=None)
def test_random_bytes_raise_nothing_but_spec_errors(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "random.yaml"
    file.write_bytes(content)
    try:
        read_yaml(file, "f")
    except SpecError as error:
        assert len(str(error).splitlines()) == 1


@given(shaped, shaped, shaped)
@settings(deadline=None)
def test_merge_is_associative_and_idempotent_and_the_child_wins(a, b, c):
    left = merge(merge(node(a), node(b)), node(c)).plain()
    assert left == merge(node(a), merge(node(b), node(c))).plain()
    assert merge(node(a), node(a)).plain() == a
    assert merge(node(left), node(c)).plain() == left
