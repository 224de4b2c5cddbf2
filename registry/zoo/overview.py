"""An overview of the zoo: description, costs and metrics of every packaged spec."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import ulzoo
from ulzoo.files.atomic import cache_folder, write_text
from ulzoo.registry.spec.conflicts import rate_range
from ulzoo.registry.spec.loading import SPECS
from ulzoo.registry.zoo.catalogue import list_models, load_spec, releases


@dataclass(frozen=True)
class Entry:
    """A packaged spec in numbers.

    Attributes:
        data: the kind of its data.
        resolution, latent: shape of the image ([t,] h, w) and of the latent (c, [t,] h, w).
        parameters: of all networks.
        gflops_training_per_image: by stage, forward and backward.
        gflops_forward: by network, for one image.
        figures: metrics on validation data; {} without released weights.
        pretrained: whether weights are released.
        loss_factors: the range of a variable-rate model, whose metrics are those at its middle; None for one rate.
    """

    name: str
    description: str
    data: str
    resolution: tuple[int, ...]
    latent: tuple[int, ...]
    parameters: int
    gflops_training_per_image: dict[str, float]
    gflops_forward: dict[str, float]
    figures: dict[str, float | list[float]]
    pretrained: bool
    loss_factors: tuple[float, float] | None = None

    @property
    def stage1(self) -> float:
        """Training GFLOPs per image of the first stage; 0 without one."""
        return self.gflops_training_per_image.get("latents", 0.0)

    @property
    def base(self) -> float:
        """Forward GFLOPs of the base; 0 without one."""
        return self.gflops_forward.get("base", 0.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def overview(pattern: str = "*", pretrained: bool | None = None) -> list[Entry]:
    """The entries of `list_models(pattern, pretrained)`.

    Costs are cached below `$XDG_CACHE_HOME/ulzoo` (`~/.cache/ulzoo`) under a hash of the spec and of ulzoo's source
    files, because building the networks takes seconds.
    """
    code = _code_version()
    return [_entry(name, code) for name in list_models(pattern, pretrained)]


def _entry(name: str, code: str) -> Entry:
    content = json.dumps([code, SPECS.read(name).plain()], sort_keys=True)
    path = cache_folder() / "measured" / f"{sha256(content.encode()).hexdigest()}.json"
    manifest = releases().get(name)
    try:
        costs = json.loads(path.read_text("utf-8"))
        shapes = {key: tuple(costs[key]) for key in ("resolution", "latent")}
        entry = Entry(**{**costs, **shapes}, figures={}, pretrained=False)
    except (OSError, ValueError, TypeError, KeyError):  # missing or damaged
        entry = _measure_costs(name)
        costs = {key: value for key, value in entry.to_dict().items() if key not in ("figures", "pretrained")}
        with suppress(OSError):
            write_text(path, json.dumps(costs))
    return replace(entry, figures=manifest.figures if manifest else {}, pretrained=manifest is not None)


def _measure_costs(name: str) -> Entry:
    from ulzoo.registry.cost.summary import summarize

    spec = load_spec(name)
    summary = summarize(spec)
    numbers = summary.to_dict()
    return Entry(
        name=name,
        description=spec.description,
        data=spec.data.kind,
        resolution=summary.resolution,
        latent=summary.latent,
        parameters=numbers["parameters"]["total"],
        gflops_training_per_image=numbers["gflops_training_per_image"],
        gflops_forward=numbers["gflops_forward"],
        figures={},
        pretrained=False,
        loss_factors=rate_range(spec, "loss_factor"),
    )


def _code_version() -> str:
    """Names, sizes and modification times of ulzoo's source files."""
    packages = (Path(ulzoo.__file__).parent, Path(__file__).parents[1])
    files = {path for package in packages for path in package.rglob("*.py")}
    return str(sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))
