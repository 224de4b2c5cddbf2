"""docs/paper.md speaks of code, tests, keys, specs and sweeps that there are, and of every choice that the specs say is
not in the paper; its FLOPs are the counter's."""

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
from ulzoo.model.denoisers import Conditions
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import find_specs, find_sweeps, load_spec, load_sweep
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.schema import flatten
from ulzoo.registry.spec.yaml_source import Node, read_yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text("utf-8")
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", PROSE)))
MAP = PROSE[: PROSE.index("## Two slips in print")]
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


# --- what it mentions -------------------------------------------------------------------------------------------------


def test_all_that_is_quoted_is_of_a_known_kind() -> None:
    assert quoted("nothing") == []
    assert all(quoted(kind) for kind in (*KINDS, "spec"))


@pytest.mark.parametrize("name", quoted("code"))
def test_its_code_exists(name: str) -> None:
    module, _, path = name.partition(":")
    assert reduce(getattr, path.split("."), importlib.import_module(module)) is not None


@pytest.mark.parametrize("name", quoted("test"))
def test_its_tests_exist(name: str) -> None:
    file, _, function = name.partition(":")
    assert re.search(rf"^def {function}\(", (ROOT / "tests" / f"{file}.py").read_text("utf-8"), re.MULTILINE)


def test_its_files_links_and_headings_exist() -> None:
    for file in quoted("file"):
        assert (ROOT / file).is_file(), file
    headings = {line.strip("# ").lower().replace(" ", "-") for line in PAGE.splitlines() if line.startswith("#")}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if not target.startswith("https://"):
            assert target[1:] in headings if target.startswith("#") else (ROOT / "docs" / target).exists(), target


def test_it_maps_every_sweep_and_every_spec_of_the_papers_size() -> None:
    for name in quoted("sweep"):
        sweep, _, point = name.partition(":")
        assert sweep in find_sweeps(), name
        assert not point or load_sweep(sweep).resolve_point(point)
    mapped = {name.partition(":")[0] for name in QUOTED}
    twins = {name for name in find_sweeps() if name.startswith("paper/small/")}
    assert set(find_sweeps()) - twins | set(SPECS) <= mapped
    assert {name.replace("small/", "") for name in twins} == set(find_sweeps()) - twins  # as it says


@pytest.mark.parametrize("what", [*TABLES, "Figure 3", "Figure 8", "Eq. 4", "Eq. 5", "Algorithm 1", "Appendix B"])
def test_it_speaks_of_all_that_is_numbered(what: str) -> None:
    assert any(what in row[0] and "`" in "".join(row[1:]) for row in rows(MAP))


# --- keys and choices -------------------------------------------------------------------------------------------------


@cache
def keys() -> set[str]:
    """Every key that the specs of the paper's size, or points of its sweeps, have."""
    specs = [load_spec(name) for name in ("imagenet512_small", "kinetics600_small", "sd_vae512_300g")]
    for name in ("table5_regularisation", "table6_ablations"):
        specs += [spec for _, spec in load_sweep(f"paper/{name}").resolve()]
    found = {key for spec in specs for key in flatten(spec.to_dict())}
    return found | {key[:i] for key in found for i in range(len(key)) if key[i] == "."}


def test_its_keys_exist() -> None:
    assert len(keys()) > 100
    for key in quoted("key"):
        assert any(fnmatchcase(name, key) for name in keys()), key


def choices() -> Iterator[tuple[str, list[str]]]:
    """The lines of the specs that say "not in the paper" of keys, on their own line or above: (place, those keys)."""
    files = {name: path for name, path in (find_specs() | find_sweeps()).items() if not name.startswith("paper/small/")}
    for name, path in files.items():
        lines = path.read_text("utf-8").splitlines()
        places: dict[int, list[str]] = {}
        for key, node in written(read_yaml(path, name)):
            places.setdefault(int(node.where.rpartition(":")[2]), []).append(key)
        for number, line in enumerate(lines, 1):
            if "not in the paper" in line.lower() and not line.startswith("#"):
                of = number + 1 if line.lstrip().startswith("#") else number
                yield f"{name}:{number}", places.get(of, [])


def written(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Key path -> value of all that a file says; what a point sets by the path that it sets."""
    for key, value in node.value.items() if isinstance(node.value, dict) else ():
        below = f"{path}.{key}" if path else key
        yield below, value
        yield from written(value, re.sub(r"^points\.[^.]+\.set\b\.?", "", below))


def test_it_gives_a_reason_for_every_choice_of_the_specs() -> None:
    known = [name for name in re.findall(r"`([^`\n]+)`", CHOICES) if kind_of(name) in ("key", "sweep")]

    def covered(key: str) -> bool:
        """The key itself, one below it, or the point of a sweep."""
        point = f":{key.removeprefix('points.')}"
        return any(fnmatchcase(key, name) or name.startswith(f"{key}.") or name.endswith(point) for name in known)

    found = dict(choices())
    assert len(found) > 30
    assert [place for place, said in found.items() if not any(map(covered, said))] == []


# --- FLOPs ------------------------------------------------------------------------------------------------------------


@cache
def model(spec: str) -> UnifiedLatents:
    return compile_model(load_spec(spec), "meta")


@cache
def counted(spec: str, part: str) -> tuple[float, float]:
    """Forward GFLOPs of a network by the counter: all, and without convolutions."""
    contract, network = model(spec).contract, getattr(model(spec), part)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        x, z = torch.empty(1, *contract.shape), torch.empty(1, *contract.latent_shape)
        conditions = Conditions(context=z) if part == "decoder" else Conditions()
        x_t = x if part in ("encoder", "decoder") else z
        if contract.given_frames and part in ("decoder", "base"):
            conditions["given"] = torch.cat([x_t, x_t[:, :1]], dim=1)
        if part == "base" and contract.text_width:
            tokens = torch.empty(1, contract.text_tokens, contract.text_width)
            conditions["text"] = Text(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
        network(x) if part == "encoder" else network.network(x_t, torch.empty(1), **conditions)
    flops = {str(operator): count / 1e9 for operator, count in counter.get_flop_counts()["Global"].items()}
    return sum(flops.values()), sum(count for operator, count in flops.items() if "convolution" not in operator)


NETWORKS = [row for row in rows(FLOPS) if row[0] in ("encoder", "prior", "decoder", "base")]
STAGES = [row for row in rows(FLOPS) if len(row) == 3 and row[0].strip("`") in SPECS]


def test_the_tables_of_flops_are_there() -> None:
    assert len(NETWORKS) >= 10 and len(STAGES) >= 3


@pytest.mark.parametrize("row", NETWORKS, ids=lambda row: " ".join(row[:2]))
def test_the_flops_of_networks_are_the_counters(row: list[str]) -> None:
    forward, linear, training = map(float, row[2:])
    every, some = counted(row[1].strip("`"), row[0])
    assert (forward, linear, training) == pytest.approx((every, some, 3 * every), rel=0.01)


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row[0])
def test_the_flops_of_stages_are_their_networks(row: list[str]) -> None:
    spec = row[0].strip("`")
    first = 3 * sum(counted(spec, part)[0] for part in ("encoder", "prior", "decoder"))
    encodings = 2 if model(spec).contract.given_frames else 1
    second = 3 * counted(spec, "base")[0] + encodings * counted(spec, "encoder")[0]
    assert (float(row[1]), float(row[2])) == pytest.approx((first, second), rel=0.01)


def test_its_python_prints_the_decoders(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    flops = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert sum(map(float, flops.values())) == pytest.approx(counted("imagenet512_medium", "decoder")[0])
    assert any("convolution" in operator for operator in flops)
