"""Draws docs/images/grid.png, and docs/images/blueprint.png with the LoRA that ships beside the demo model.

    cargo build --release
    .oracle/bin/python docs/images/gallery.py

Any Python with Pillow will do; `just gallery` runs both lines. Every picture comes from `llm-dit generate` with the demo
model and one seed for all: the prompts were chosen, the pictures were not.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

REPO = Path(__file__).resolve().parents[2]
IMAGES = REPO / "docs" / "images"
LORA = REPO / "models" / "loras" / "blueprint.safetensors"
PROMPTS = (
    "a red apple on a blue background", "a rocket on a purple background", "a grinning face with big eyes", "a palm tree",
    "a blue car", "a wizard", "a mermaid", "a peacock",
    "a green dragon on a pink background", "a panda", "a purple teapot", "a sailboat",
)
DRAFTED = ("a rocket", "a sailboat", "a panda", "a bicycle")
SIDE, GAP, LABEL = 216, 8, 20


def draw(llm_dit: Path, file: Path, prompt: str, args, *extra) -> Image.Image:
    """One picture, shown smaller than it was made."""
    subprocess.run([llm_dit, "generate", prompt, "--seed", str(args.seed), "--steps", str(args.steps), "--device", "cpu",
                    "--output", file, "--quiet", *extra], check=True, cwd=REPO)
    return Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def save(file: Path, cells: list[tuple[Image.Image, str]], caption: str, columns: int = 4) -> None:
    """Pictures with what they were asked for, and one line about all of them."""
    rows, step = -(-len(cells) // columns), (SIDE + GAP, SIDE + GAP + LABEL)
    grid = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP + LABEL), "white")
    pen = ImageDraw.Draw(grid)
    for i, (picture, label) in enumerate(cells):
        x, y = GAP + i % columns * step[0], GAP + i // columns * step[1]
        grid.paste(picture, (x, y))
        pen.text((x + 2, y + SIDE + 2), label, fill="black", font=ImageFont.load_default(12))
    pen.text((GAP + 2, rows * step[1] + GAP), caption, fill="dimgray", font=ImageFont.load_default(12))
    grid.save(file, optimize=True)
    print(f"{file}: {grid.width}x{grid.height}, {file.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--llm-dit", type=Path, default=REPO / "target" / "release" / "llm-dit")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder to write (default: docs/images)")
    args = parser.parse_args()

    how = f"the demo model, 256x256, seed {args.seed}, {args.steps} steps, f32 on a CPU; the first picture of each prompt"
    style = ("--lora", str(LORA), "--lora-trigger", "blueprint of")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        save(args.out / "grid.png", [(draw(args.llm_dit, file, p, args), p) for p in PROMPTS], how)
        plain = [(draw(args.llm_dit, file, p, args), p) for p in DRAFTED]
        drafted = [(draw(args.llm_dit, file, p, args, *style), f"blueprint of {p}") for p in DRAFTED]
        save(args.out / "blueprint.png", plain + drafted, f"below with blueprint.safetensors; {how}")


if __name__ == "__main__":
    main()
