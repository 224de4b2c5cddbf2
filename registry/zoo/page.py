"""The page that people see of a model on the hub: its README, with the metadata that the hub reads."""

from collections.abc import Iterator
from typing import Any

from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.spec.yaml_source import dump_yaml
from ulzoo.registry.zoo.hub import Address
from ulzoo.registry.zoo.release import Card

PAPER = "https://arxiv.org/abs/2602.17270"
TAGS = ["ulzoo", "unified-latents", "diffusion"]
UNITS = {  # end of a figure's name -> its unit
    "psnr_db": "dB",
    "bits_per_pixel": "bits/pixel, an upper bound",
    "bits_per_dimension": "bits per latent dimension, an upper bound",
}


def page(card: Card, spec: Spec, address: Address) -> str:
    """Markdown with YAML before it."""
    metadata: dict[str, Any] = {"library_name": "ulzoo", "license": card.license.lower(), "tags": TAGS}
    return f"---\n{dump_yaml(metadata)}---\n\n" + "\n\n".join(_parts(card, spec, address)) + "\n"


def _parts(card: Card, spec: Spec, address: Address) -> Iterator[str]:
    yield f"# {card.name}"
    if spec.description:
        yield spec.description
    yield f"A model of [Unified Latents]({PAPER}), made with ulzoo; `spec.yaml` is the whole of it."
    yield f'```python\nimport ulzoo\n\nmodel = ulzoo.load("{address}")\nx = model.sample(4)\n```'
    yield f"`ulzoo train {address} --dry-run` says what training it again costs."
    if card.figures:
        yield "## Figures"
        yield "\n".join(["| figure | value | unit |", "|---|---|---|", *_figures(card)])
        yield f"How they were measured:\n\n```yaml\n{dump_yaml(card.protocol)}```"
    yield "## Files"
    yield "\n".join(f"- `{name}`, SHA-256 `{digest}`" for name, digest in card.sha256.items())


def _figures(card: Card) -> Iterator[str]:
    """A row each, but for those that are lists."""
    for name, value in card.figures.items():
        if not isinstance(value, list):
            unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
            yield f"| {name} | {value:.4g} | {unit} |"
