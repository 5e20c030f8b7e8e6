"""Draws docs/images/schedulers.png: four schedulers, by rows, at 2, 4, 8 and 20 steps.

    cargo build --release
    .oracle/bin/python docs/images/schedulers.py

Any Python with Pillow will do. Every picture comes from `llm-dit generate` with the demo model, one
prompt and one seed, and is shown smaller than it was made.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

REPO = Path(__file__).resolve().parents[2]
SCHEDULERS = ("flow_euler", "flow_heun", "dpm_solver", "unipc")
STEPS = (2, 4, 8, 20)
SIDE, GAP, LABEL = 168, 6, 18


def draw(llm_dit: Path, folder: Path, scheduler: str, steps: int, args) -> Image.Image:
    """One picture at its own size."""
    file = folder / f"{scheduler}_{steps}.png"
    subprocess.run([llm_dit, "generate", args.prompt, "--seed", str(args.seed), "--steps", str(steps), "--scheduler",
                    scheduler, "--device", "cpu", "--output", file, "--quiet"], check=True, cwd=REPO)
    return Image.open(file).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="a rocket on a purple background")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--llm-dit", type=Path, default=REPO / "target" / "release" / "llm-dit")
    parser.add_argument("--output", type=Path, default=REPO / "docs" / "images" / "schedulers.png")
    args = parser.parse_args()

    cell = (SIDE + GAP, SIDE + GAP + LABEL)
    grid = Image.new("RGB", (len(STEPS) * cell[0] + GAP, len(SCHEDULERS) * cell[1] + GAP), "white")
    pen = ImageDraw.Draw(grid)
    with tempfile.TemporaryDirectory() as folder:
        for row, scheduler in enumerate(SCHEDULERS):
            for column, steps in enumerate(STEPS):
                picture = draw(args.llm_dit, Path(folder), scheduler, steps, args)
                x, y = GAP + column * cell[0], GAP + row * cell[1]
                pen.text((x, y), f"{scheduler}, {steps} steps", fill="black")
                grid.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y + LABEL))
    grid.save(args.output, optimize=True)
    print(f"{args.output}: {grid.width}x{grid.height}, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
