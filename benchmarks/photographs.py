"""Stage 1 of the specs for a folder of images, on squares of photographs.

    python -m benchmarks photographs [--device cpu] [--threads 1] [--out FOLDER]

Cuts overlapping squares of 96² from five photographs of scikit-image: those from the left four fifths are for training,
those from the right fifths for validation. Trains stage 1 of `images32_tiny`, and of `images64_tiny`
with its own and with twice its loss factor, as the specs say.
"""

import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.fine_tuning import PHOTOGRAPHS
from benchmarks.measuring import parser, prepare, publish
from ulzoo.registry import load_spec
from ulzoo.registry.runs.train import RunOptions, train

SQUARE, STRIDE = 96, 24
SETTINGS = {
    "images32_tiny": ("images32_tiny", ()),
    "images64_tiny": ("images64_tiny", ()),
    "images64_tiny, loss factor 17": ("images64_tiny", ("decoder.weighting.loss_factor=17",)),
}


def cut(out: Path) -> dict[str, int]:
    """Write the squares to OUT/train and OUT/val as PNG files; return their numbers."""
    import skimage.data

    folder, counts = Path(skimage.data.__file__).parent, {"train": 0, "val": 0}
    for name in PHOTOGRAPHS:
        picture = Image.open(folder / name).convert("RGB")
        middle = picture.width * 4 // 5
        for split, left, right in (("train", 0, middle), ("val", middle, picture.width)):
            (out / split).mkdir(parents=True, exist_ok=True)
            for top in range(0, picture.height - SQUARE + 1, STRIDE):
                for start in range(left, right - SQUARE + 1, STRIDE):
                    square = picture.crop((start, top, start + SQUARE, top + SQUARE))
                    square.save(out / split / f"{Path(name).stem}-{top}-{start}.png")
                    counts[split] += 1
    return counts


def main() -> int:
    options = parser(__doc__).parse_args()
    device = prepare(options)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        counts = cut(Path(folder) / "photographs")
        print(f"{counts['train']} squares for training, {counts['val']} for validation", flush=True)
        for title, (name, overrides) in SETTINGS.items():
            spec = load_spec(name, [f"data.root={folder}/photographs", *overrides])
            result = train(spec, Path(folder) / title, RunOptions(stage="latents", device=device))
            assert result is not None
            rows[title] = figures = result.results["figures"]
            print(
                f"{title}: {figures['psnr_db']:.2f} dB at {figures['bits_per_pixel']:.3f} bits/pixel; mean image "
                f"{figures['mean_image_psnr_db']:.2f} dB; {result.seconds:.0f} s",
                flush=True,
            )
    publish("photographs", {"squares": counts, "figures": rows}, device, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
