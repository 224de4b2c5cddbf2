"""The zoo at a glance: what each packaged spec is, costs and reached."""

from dataclasses import asdict, dataclass
from typing import Any

from ulzoo.registry.catalogue import cards, list_models
from ulzoo.registry.spec import load_spec
from ulzoo.registry.summary import summarize


@dataclass(frozen=True)
class Entry:
    """A packaged spec in numbers.

    Attributes:
        data: kind of its data.
        resolution, latent: sizes of the image (h, w) and the latent (c, h, w).
        parameters: of all networks.
        gflops_training_per_image: by stage, forward and backward.
        gflops_forward: of each network, once, for one image.
        figures: measured on validation data; {} where no weights are released.
        pretrained: whether they are.
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
    """The entries of `list_models(pattern, pretrained)`."""
    return [_entry(name) for name in list_models(pattern, pretrained)]


def _entry(name: str) -> Entry:
    spec = load_spec(name)
    card = cards().get(name)
    summary = summarize(spec, memory=False)
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
        figures=card.figures if card else {},
        pretrained=card is not None,
    )
