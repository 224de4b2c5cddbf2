"""An overview of the zoo: description, costs and metrics of every packaged spec.

python -m ulzoo.registry.zoo.overview       # record the costs: after a change of packaged specs or of networks
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulzoo.files.atomic import write_text
from ulzoo.registry.spec.conflicts import rate_range
from ulzoo.registry.spec.loading import SPECS
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.zoo.catalogue import list_models, load_spec, releases

if TYPE_CHECKING:
    from ulzoo.registry.cost.summary import ModelSummary

RECORDED = Path(__file__).with_name("costs.json")
"""Costs of the packaged specs by name, each with the `source_hash` of the spec; `make costs` writes it."""


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

    Costs are those of `RECORDED`. A spec that has changed since is measured, which takes seconds.
    """
    recorded = json.loads(RECORDED.read_text("utf-8"))
    return [_entry(name, recorded.get(name, {})) for name in list_models(pattern, pretrained)]


def _entry(name: str, recorded: dict[str, Any]) -> Entry:
    source, manifest = SPECS.read(name).plain(), releases().get(name)
    costs = recorded if recorded.get("source") == source_hash(source) else measure_costs(name)
    return Entry(
        name=name,
        description=source.get("description", ""),
        data=costs["data"],
        resolution=tuple(costs["resolution"]),
        latent=tuple(costs["latent"]),
        parameters=costs["parameters"],
        gflops_training_per_image=costs["gflops_training_per_image"],
        gflops_forward=costs["gflops_forward"],
        figures=manifest.figures if manifest else {},
        pretrained=manifest is not None,
        loss_factors=tuple(costs["loss_factors"]) if costs["loss_factors"] else None,
    )


def source_hash(source: dict[str, Any]) -> str:
    """SHA-256, in hex, of a spec's file merged over those that it extends, without the description.

    Unlike `Spec.hash` it needs neither the classes of the components nor, hence, torch.
    """
    content = {key: value for key, value in source.items() if key != "description"}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def measure_costs(name: str) -> dict[str, Any]:
    """A packaged spec's row of `RECORDED`, computed from its networks."""
    from ulzoo.registry.cost.summary import summarize

    spec = load_spec(name)
    return costs_row(name, spec, summarize(spec))


def costs_row(name: str, spec: Spec, summary: "ModelSummary") -> dict[str, Any]:
    """The row of `RECORDED` for a packaged spec and its summary, as plain data."""
    numbers, ends = summary.to_dict(), rate_range(spec, "loss_factor")
    return {
        "source": source_hash(SPECS.read(name).plain()),
        "data": spec.data.kind,
        "resolution": numbers["resolution"],
        "latent": numbers["latent"],
        "parameters": numbers["parameters"]["total"],
        "gflops_training_per_image": numbers["gflops_training_per_image"],
        "gflops_forward": numbers["gflops_forward"],
        "loss_factors": list(ends) if ends else None,
    }


def record_costs() -> None:
    """Write the costs of all packaged specs to `RECORDED`, a line per spec, and their networks."""
    from ulzoo.registry.compile import compile_model
    from ulzoo.registry.cost.networks import NetworkSummary, measure_networks, write_recorded

    networks: dict[str, NetworkSummary] = {}
    for spec in map(load_spec, list_models()):
        networks |= measure_networks(spec, compile_model(spec, "meta"))
    write_recorded(networks)
    lines = [f"{json.dumps(name)}: {json.dumps(measure_costs(name))}" for name in list_models()]
    write_text(RECORDED, "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    record_costs()
