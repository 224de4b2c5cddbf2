"""The README's picture: reconstructions and samples of the released emoji32_tiny, and the curve of benchmarks/knobs.py.

python -m benchmarks readme_picture [--out docs/images/emoji32_tiny.png]
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.pictures import save_picture
from ulzoo.registry import open_model
from ulzoo.registry.compile import open_source
from ulzoo.visualization import SampleRequest, reconstruction_rows, sample_rows, save_grid

ROOT = Path(__file__).parents[1]
CURVE_WIDTH = 640


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/emoji32_tiny.png")
    out = parser.parse_args().out
    released = open_model("emoji32_tiny")
    rows = reconstruction_rows({"reconstructions": released.model}, open_source(released.spec, "val"), 12)
    rows += sample_rows({"samples": released.model}, SampleRequest(24))
    guided = SampleRequest(36, labels="Smileys,People,Food", guidance=2.0)
    rows += sample_rows({"samples, guidance 2": released.model}, guided)
    with tempfile.TemporaryDirectory() as folder:
        save_grid(Path(folder) / "grid.png", rows, min_side=64)
        grid = Image.open(Path(folder) / "grid.png").convert("RGB")
    curve = Image.open(ROOT / "benchmarks/results/knobs.png").convert("RGB")
    curve = curve.resize((CURVE_WIDTH, curve.height * CURVE_WIDTH // curve.width), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (grid.width + curve.width, max(grid.height, curve.height)), "white")
    sheet.paste(grid, (0, 0))
    sheet.paste(curve, (grid.width, (sheet.height - curve.height) // 2))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_picture(sheet, out)
    print(out)


if __name__ == "__main__":
    main()
