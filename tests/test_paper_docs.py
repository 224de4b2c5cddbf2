"""docs/paper.md names existing code, tests, keys, specs and sweeps, and every choice that the specs mark as not in the
paper; its FLOPs agree with the counter."""

import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache, reduce
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ulzoo.media.captions import Text
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.registry import find_specs, find_sweeps, load_spec, load_sweep
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.schema import flatten
from ulzoo.registry.spec.yaml_source import Node, read_yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text("utf-8")
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", PROSE)))
MAPPING = PROSE[: PROSE.index("## Two sign errors in the paper")]
CHOICES = PROSE[PROSE.index("## What the paper leaves open") : PROSE.index("## FLOPs")]
FLOPS = PROSE[PROSE.index("## FLOPs") :]
KINDS = {
    "code": r"ulzoo(?:\.\w+)*:[\w.]+",
    "test": r"(?:\w+/)*test_\w+:test_\w+",
    "sweep": r"paper/[\w/]+(?::[\w.-]+)?",
    "file": r"[\w/]+\.(?:py|yaml|md)",
    "command": r"ulzoo .+|--\w+",
    "setting": r"[a-z_.]+: \w+",
    "key": r"(?:\*|[a-z_]+)(?:\.(?:\*|[a-z_]+))*",
}
TABLES = ("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", *(f"Table 6 {row}" for row in "ABCD"))
SPECS = [name for name in find_specs() if re.match("imagenet|kinetics|text2image|pixel|sd_vae", name)]


WORDS = {"module:name", "file:name", "paper/NAME", "paper/small/NAME", "SWEEP:POINT", "tests/", "*", "meta"}
WORDS |= {"torch.utils.flop_counter", "summary.gflops_forward", "summary.gflops_training_per_image"}


def kind_of(quoted: str) -> str:
    if quoted in WORDS:
        return "word"
    if quoted in find_specs():
        return "spec"
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, quoted)), "nothing")


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def quoted(kind: str) -> list[str]:
    return [text for text in QUOTED if kind_of(text) == kind]


# --- references -------------------------------------------------------------------------------------------------


def test_every_quoted_name_has_a_known_kind() -> None:
    assert quoted("nothing") == []
    assert all(quoted(kind) for kind in (*KINDS, "spec"))


@pytest.mark.parametrize("name", quoted("code"))
def test_code_exists(name: str) -> None:
    module, _, path = name.partition(":")
    assert reduce(getattr, path.split("."), importlib.import_module(module)) is not None


@pytest.mark.parametrize("name", quoted("test"))
def test_tests_exist(name: str) -> None:
    file, _, function = name.partition(":")
    assert re.search(rf"^def {function}\(", (ROOT / "tests" / f"{file}.py").read_text("utf-8"), re.MULTILINE)


def test_files_links_and_headings_exist() -> None:
    for file in quoted("file"):
        assert (ROOT / file).is_file(), file
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if not target.startswith("https://"):
            file, _, heading = target.partition("#")
            assert (ROOT / "docs" / file).exists(), target
            assert not heading or heading in headings(ROOT / "docs" / (file or "paper.md")), target


def headings(page: Path) -> set[str]:
    lines = page.read_text("utf-8").splitlines()
    return {line.strip("# ").lower().replace(" ", "-") for line in lines if line.startswith("#")}


def test_every_sweep_and_every_spec_of_the_papers_size_is_mapped() -> None:
    for name in quoted("sweep"):
        sweep, _, point = name.partition(":")
        assert sweep in find_sweeps(), name
        assert not point or load_sweep(sweep).resolve_point(point)
    mapped = {name.partition(":")[0] for name in QUOTED}
    counterparts = {name for name in find_sweeps() if name.startswith("paper/small/")}
    assert set(find_sweeps()) - counterparts | set(SPECS) <= mapped
    assert {name.replace("small/", "") for name in counterparts} == set(find_sweeps()) - counterparts


@pytest.mark.parametrize("item", [*TABLES, "Figure 3", "Figure 8", "Eq. 4", "Eq. 5", "Algorithm 1", "Appendix B"])
def test_every_table_figure_and_equation_is_mapped(item: str) -> None:
    assert any(item in row[0] and "`" in "".join(row[1:]) for row in rows(MAPPING))


ITEMS = (
    *(f"Table {i}" for i in range(1, 6)),
    *(f"Table 6 {row}" for row in "ABCD"),
    *(f"Figure {i}" for i in range(1, 11)),
    *("Eq. 4", "Eq. 5", "Algorithm 1", "Appendix B (i)", "Appendix B (ii)"),
)


def items() -> dict[str, tuple[str, str]]:
    """Item of the paper -> (status, where or why not)."""
    section = PROSE[PROSE.index("### Item by item") : PROSE.index("## Two sign errors in the paper")]
    return {item: (status, text) for item, status, text in rows(section)[2:]}


def test_every_item_of_the_paper_has_a_row() -> None:
    assert set(ITEMS) <= set(items())


@pytest.mark.parametrize("item", items())
def test_an_item_is_faithful_or_chosen_or_not_here(item: str) -> None:
    """What is here names its code or a sweep with the item as its source; what is not has a reason."""
    status, text = items()[item]
    assert status in ("faithful", "chosen", "not here")
    if status == "not here":
        assert text == "as Figure 1" or len(text) > 30
        return
    names = re.findall(r"`([^`]+)`", text)
    assert item not in ITEMS or any(kind_of(name) in ("code", "sweep", "spec") for name in names)
    for name in names:
        if kind_of(name) == "sweep":
            assert item.startswith(load_sweep(name.partition(":")[0]).source)


def test_every_sweep_is_the_item_of_a_row() -> None:
    sources = {load_sweep(name).source for name in find_sweeps()}
    assert all(any(item.startswith(source) for item in items()) for source in sources)


# --- keys and choices -------------------------------------------------------------------------------------------------


@cache
def keys() -> set[str]:
    """Every key of the specs of the paper's size and of points of its sweeps."""
    specs = [load_spec(name) for name in ("imagenet512_small", "kinetics600_small", "sd_vae512_300g")]
    for name in ("table5_regularisation", "table6_ablations"):
        specs += [spec for _, spec in load_sweep(f"paper/{name}").resolve()]
    leaves = {key for spec in specs for key in flatten(spec.to_dict())}
    return leaves | {key[:i] for key in leaves for i in range(len(key)) if key[i] == "."}


def test_keys_exist() -> None:
    assert len(keys()) > 100
    for key in quoted("key"):
        assert any(fnmatchcase(name, key) for name in keys()), key


def choices() -> Iterator[tuple[str, list[str]]]:
    """Yield (location, keys) of every comment "not in the paper" in the specs; keys are on its line or the next."""
    files = {name: path for name, path in (find_specs() | find_sweeps()).items() if not name.startswith("paper/small/")}
    for name, path in files.items():
        lines = path.read_text("utf-8").splitlines()
        keys_of_line: dict[int, list[str]] = {}
        for key, node in walk_keys(read_yaml(path, name)):
            keys_of_line.setdefault(int(node.where.rpartition(":")[2]), []).append(key)
        for number, line in enumerate(lines, 1):
            if "not in the paper" in line.lower() and not line.startswith("#"):
                key_line = number + 1 if line.lstrip().startswith("#") else number
                yield f"{name}:{number}", keys_of_line.get(key_line, [])


def walk_keys(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield (key path, value) of everything in a file; a setting of a sweep's point has the path of its key."""
    for key, value in node.value.items() if isinstance(node.value, dict) else ():
        child = f"{path}.{key}" if path else key
        yield child, value
        yield from walk_keys(value, re.sub(r"^points\.[^.]+\.set\b\.?", "", child))


def test_every_choice_of_the_specs_has_a_reason() -> None:
    names = [name for name in re.findall(r"`([^`\n]+)`", CHOICES) if kind_of(name) in ("key", "sweep")]

    def covered(key: str) -> bool:
        """Whether the page names the key, a nested key, or the point of a sweep."""
        point = f":{key.removeprefix('points.')}"
        return any(fnmatchcase(key, name) or name.startswith(f"{key}.") or name.endswith(point) for name in names)

    marked = dict(choices())
    assert len(marked) > 30
    assert [place for place, keys in marked.items() if not any(map(covered, keys))] == []


# --- FLOPs ------------------------------------------------------------------------------------------------------------


@cache
def model(spec: str) -> UnifiedLatents:
    return compile_model(load_spec(spec), "meta")


@cache
def counted(spec: str, part: str) -> tuple[float, float]:
    """Counted forward GFLOPs of a network: all operators, and without convolutions."""
    contract, network = model(spec).contract, getattr(model(spec), part)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        x, z = torch.empty(1, *contract.shape), torch.empty(1, *contract.latent_shape)
        x_t = x if part in ("encoder", "decoder") else z
        latent = z if part == "decoder" else None
        frames = text = None
        if contract.context_frames and part in ("decoder", "base"):
            frames = torch.cat([x_t, x_t[:, :1]], dim=1)
        if part == "base" and contract.text_width:
            tokens = torch.empty(1, contract.text_tokens, contract.text_width)
            text = Text(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
        conditions = NetworkConditions(latent=latent, text=text, context_frames=frames)
        network(x) if part == "encoder" else network.network(x_t, torch.empty(1), conditions)
    flops = {str(operator): count / 1e9 for operator, count in counter.get_flop_counts()["Global"].items()}
    return sum(flops.values()), sum(count for operator, count in flops.items() if "convolution" not in operator)


NETWORKS = [row for row in rows(FLOPS) if row[0] in ("encoder", "prior", "decoder", "base")]
STAGES = [row for row in rows(FLOPS) if len(row) == 3 and row[0].strip("`") in SPECS]


def test_the_flops_tables_exist() -> None:
    assert len(NETWORKS) >= 10 and len(STAGES) >= 3


@pytest.mark.parametrize("row", NETWORKS, ids=lambda row: " ".join(row[:2]))
def test_the_flops_of_networks_agree_with_the_counter(row: list[str]) -> None:
    forward, linear, training = map(float, row[2:])
    total, without_convolutions = counted(row[1].strip("`"), row[0])
    assert (forward, linear, training) == pytest.approx((total, without_convolutions, 3 * total), rel=0.01)


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row[0])
def test_the_flops_of_stages_are_sums_over_networks(row: list[str]) -> None:
    spec = row[0].strip("`")
    first = 3 * sum(counted(spec, part)[0] for part in ("encoder", "prior", "decoder"))
    encodings = 2 if model(spec).contract.context_frames else 1
    second = 3 * counted(spec, "base")[0] + encodings * counted(spec, "encoder")[0]
    assert (float(row[1]), float(row[2])) == pytest.approx((first, second), rel=0.01)


def test_the_python_code_prints_the_flops_of_the_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    flops = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert sum(map(float, flops.values())) == pytest.approx(counted("imagenet512_medium", "decoder")[0])
    assert any("convolution" in operator for operator in flops)
