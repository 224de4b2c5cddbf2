"""What a released model is worth on other data: fine-tuned on photographs, against training from scratch.

    python -m benchmarks fine_tuning [--steps 105] [--model emoji32_tiny] [--out benchmarks/results]

Cuts scikit-image's licence-free photographs into 213 squares of 72², which do not overlap, resizes them to 32², trains
both stages of the model's spec on 194 of them without labels, from its released weights and from scratch with equal
settings, and measures both on the other 19. Writes fine_tuning.json.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from ulzoo.registry import load_spec, open_model
from ulzoo.registry.runs.export import versions
from ulzoo.registry.runs.train import RunOptions, train

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
SQUARE, SIZE = 72, 32
VALIDATION_EVERY = 11


def cut_photographs(out: Path) -> dict[str, int]:
    """Write the squares to OUT/train and OUT/val as PNG files; return their numbers."""
    import skimage.data

    folder, counts = Path(skimage.data.__file__).parent, {"train": 0, "val": 0}
    for name in PHOTOGRAPHS:
        picture = Image.open(folder / name).convert("RGB")
        for top in range(0, picture.height - SQUARE + 1, SQUARE):
            for left in range(0, picture.width - SQUARE + 1, SQUARE):
                split = "val" if sum(counts.values()) % VALIDATION_EVERY == VALIDATION_EVERY // 2 else "train"
                path = out / split / f"{Path(name).stem}-{top}-{left}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                square = picture.crop((left, top, left + SQUARE, top + SQUARE))
                square.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(path)
                counts[split] += 1
    return counts


def overrides(photographs: Path, steps: int) -> list[str]:
    """What both trainings change in the spec: data without labels, few steps, a learning rate for fine-tuning."""
    data = f"data={{kind: image_folder, root: {photographs}, resolution: {SIZE}, num_classes: null}}"
    stages = [
        f"train.{stage}.{key}"
        for stage in ("latents", "base")
        for key in (f"steps={steps}", f"warmup_steps={steps // 10}", "batch_size=32", "log_every=15", "ema=0.9")
    ]
    return [data, "base.class_conditional=false", "train.latents.prior_warmup_steps=0", *stages]


def measure(model: str, steps: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Metrics with their protocol, by start of the training."""
    counts = cut_photographs(folder / "photographs")
    print(f"{counts['train']} photographs for training, {counts['val']} for validation", flush=True)
    rows = {}
    for start, init in {"from scratch": [], "fine-tuned": [f"init.model={model}"]}.items():
        spec = load_spec(model, [*overrides(folder / "photographs", steps), *init])
        result = train(spec, folder / start, RunOptions(open_model=open_model))
        assert result is not None
        rows[start] = result.results
        figures = result.results["figures"]
        print(f"{start}: {figures['psnr_db']:.2f} dB at {figures['bits_per_pixel']:.4f} bits/pixel", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji32_tiny")
    parser.add_argument("--steps", type=int, default=105)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments.model, arguments.steps, Path(folder))
    gain = rows["fine-tuned"]["figures"]["psnr_db"] - rows["from scratch"]["figures"]["psnr_db"]
    print(f"difference: {gain:.2f} dB")
    content = {"model": arguments.model, "steps": arguments.steps, "gain_db": gain, "versions": versions(), **rows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "fine_tuning.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(gain < 10)


if __name__ == "__main__":
    main()
