"""The structure of docs/architecture.md: who may import whom, the size of files and signatures, light imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "ulzoo": ROOT / "ulzoo",
    "ulzoo.registry": ROOT / "registry",
    "ulzoo.interop": ROOT / "registry" / "interop",
    "ulzoo.cli": ROOT / "cli",
}

SERVICES = {"files", "runtime", "media", "version"}
LAYERS: dict[str, set[str]] = {
    "version": set(),
    "files": {"runtime", "version"},
    "runtime": set(),
    "media": set(),
    "diffusion": SERVICES,
    "coding": {"diffusion", *SERVICES},
    "nn": {"diffusion", *SERVICES},
    "model": {"nn", "coding", "diffusion", *SERVICES},
    "data": {"diffusion", *SERVICES},
    "training": {"model", "data", "nn", "diffusion", *SERVICES},
    "evaluation": {"model", "data", "nn", "diffusion", *SERVICES},
    "visualization": {"model", "data", "nn", "diffusion", *SERVICES},
    "registry": {"coding", "training", "evaluation", "visualization", "model", "data", "nn", "diffusion", *SERVICES},
    "interop": {
        "registry",
        "coding",
        "training",
        "evaluation",
        "visualization",
        "model",
        "data",
        "nn",
        "diffusion",
        *SERVICES,
    },
    "cli": {"registry", "training", "evaluation", "visualization", "model", "data", "nn", "diffusion", *SERVICES},
}
"""Part of `ulzoo` -> the other parts that it may import, anywhere in a file."""

ORDERS = {
    "ulzoo.registry": ["spec", "compile", ("cost", "runs"), "zoo", "sweeps", "report", "interop"],
    "ulzoo.coding": [("randomness", "grid", "simulation"), "process", ("codec", "stream")],
    "ulzoo.model": [
        "rate_control",
        "contract",
        "conditioning",
        ("arguments", "denoisers"),
        ("rate", "pretrained", "distillation"),
        "networks",
        ("tiling", "variable_rate"),
        "codec_network",
        "compression",
        "unified_latents",
        "losses",
    ],
}
"""Package -> its parts from bottom to top; each may import those below it, and none of its own rank."""

LIGHT = [
    "ulzoo",
    "ulzoo.registry",
    "ulzoo.registry.spec.sweep",
    "ulzoo.registry.zoo.catalogue",
    "ulzoo.cli",
    "ulzoo.interop",
]
MAX_LINES, MIN_MEDIAN_LINES, MAX_PARAMETERS = 350, 100, 7


def module_name(path: Path) -> str:
    """The name a file is imported by."""
    package, folder = next((p, f) for p, f in reversed(PACKAGES.items()) if path.is_relative_to(f))
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join([package, *parts]).removesuffix(".__init__")


MODULES = {
    module_name(path): path
    for folder in PACKAGES.values()
    for path in sorted(folder.rglob("*.py"))
    if path.name != "__main__.py"
}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, functions included, except what is imported for annotations only."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not is_type_checking(child):
            yield from walk(child)


def imported_modules(path: Path) -> set[str]:
    """The modules of `ulzoo` that a file imports, at its top or inside functions."""
    names: set[str] = set()
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    return {name for name in names if name.split(".")[0] == "ulzoo"}


IMPORTS = {name: imported_modules(path) for name, path in MODULES.items()}


def part_of(name: str, package: str = "ulzoo") -> str:
    """ulzoo.nn.vit -> nn; the package itself -> ''."""
    return name.removeprefix(package).lstrip(".").split(".")[0]


def reaches_upwards(name: str, target: str) -> bool:
    """`ulzoo` itself hands on the public names; importing it means importing the registry."""
    if (name, target) == ("ulzoo.model.pretrained", "ulzoo"):
        return False  # `save_pretrained` and the like are the public functions under the names that users expect
    source, layer = part_of(name), part_of(target)
    if not source or source == "__init__":
        return False
    if not layer:
        return "registry" not in LAYERS[source] and source != "registry"
    return layer != source and layer not in LAYERS[source]


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name: str) -> None:
    assert not sorted(target for target in IMPORTS[name] if reaches_upwards(name, target))


@pytest.mark.parametrize("package", ORDERS)
def test_order_within_a_package(package: str) -> None:
    rank = {}
    for i, parts in enumerate(ORDERS[package]):
        rank |= dict.fromkeys(parts if isinstance(parts, tuple) else (parts,), i)
    folder = PACKAGES.get(package) or ROOT / package.replace(".", "/")
    present = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert present - {"__init__"} == rank.keys()
    wrong = [
        f"{name} -> {target}"
        for name in MODULES
        for target in IMPORTS[name]
        if name.startswith(f"{package}.") and target.startswith(f"{package}.")
        if (a := part_of(name, package)) != (b := part_of(target, package)) and rank[a] <= rank[b]
    ]
    assert not wrong


def test_there_is_no_circle() -> None:
    """No module imports itself through others, not even by an import inside a function."""
    finished: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, " -> ".join([*chain[chain.index(name) :], name])
        if name not in finished:
            for target in sorted(IMPORTS.get(name, ())):
                if target != "ulzoo":  # its names are imported lazily
                    visit(target, (*chain, name))
            finished.add(name)

    for name in MODULES:
        visit(name, ())


def test_packages_and_the_top_level() -> None:
    top = {path.name for path in (ROOT / "ulzoo").iterdir() if path.suffix == ".py"}
    assert top == {"__init__.py", "__main__.py", "version.py"}
    assert {path.name for path in (ROOT / "registry").glob("*.py")} == {"__init__.py", "compile.py"}


def test_files_are_neither_long_nor_tiny() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}
    core = [count for name, count in lines.items() if MODULES[name].name != "__init__.py"]
    assert median(core) >= MIN_MEDIAN_LINES


def components() -> set[tuple[str, str]]:
    """(module, class) of every component that a spec can name: its constructor is a schema."""
    from ulzoo.registry.spec import components
    from ulzoo.registry.spec.component_table import Table

    tables = [value for value in vars(components).values() if isinstance(value, Table)]
    classes = [table.get(kind) for table in tables for kind in table.kinds()]
    return {(cls.__module__, cls.__name__) for cls in classes}


def functions(node: ast.AST, class_name: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function below a node with the name of the class it is a method of, "" for none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield class_name, child
            yield from functions(child)
        else:
            yield from functions(child, child.name if isinstance(child, ast.ClassDef) else class_name)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    a = function.args
    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]


def test_signatures_are_short() -> None:
    schemas = components()
    long = [
        f"{name}:{function.lineno} {class_name}.{function.name}: {len(parameters(function))}"
        for name, path in MODULES.items()
        if part_of(name) != "cli"
        for class_name, function in functions(ast.parse(path.read_text(encoding="utf-8")))
        if len(parameters(function)) > MAX_PARAMETERS
        and not (function.name == "__init__" and (name, class_name) in schemas)
    ]
    assert not long


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name)
    assert not {cls: modules for cls, modules in homes.items() if len(modules) > 1}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import {module}, sys; assert not {{'torch', 'timm'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
