"""Golden pictures of which a part is redrawn: diffusers' ZImageInpaintPipeline on the demo model in f32.

    .oracle/bin/python tests/oracle/inpaint_goldens.py

The source has the size of the result, so that no resizing of it is compared; some masks have another
size, and are stretched. The pipeline decodes everything: the unmasked pixels are not pasted back.
"""

from pathlib import Path

from diffusers import ZImageInpaintPipeline
from PIL import Image, ImageDraw

import source_pictures

NEGATIVE = "blurry"
STEPS = 8


def cases() -> list[dict]:
    """Both strengths with and without guidance, odd sizes, and masks of other sizes than the picture."""
    plan = []
    for prompt, seed, strength, guidance, width, height, shape, mask_size in [
        ("an owl, pink background", 1, 1.0, 0.0, 128, 96, "box", (128, 96)),
        ("an owl, pink background", 42, 0.5, 0.0, 128, 96, "box", (128, 96)),
        ("a blue car", 42, 1.0, 1.5, 96, 144, "ellipse", (96, 144)),
        ("a blue car", 7, 0.5, 1.5, 96, 144, "ellipse", (50, 71)),
        ("a strawberry on a white background", 3, 1.0, 0.0, 208, 144, "frame", (208, 144)),
        ("a wizard", 5, 0.5, 0.0, 208, 144, "ellipse", (333, 101)),
        ("a wizard", 9, 0.9, 1.5, 80, 112, "frame", (40, 56)),
    ]:
        name = f"{len(plan)}_{width}x{height}_seed{seed}_strength{strength}{'_cfg' if guidance else ''}.png"
        mask = f"mask_{shape}_{mask_size[0]}x{mask_size[1]}.png"
        plan.append(dict(file=name, source=f"source_{width}x{height}.png", mask=mask, prompt=prompt, seed=seed,
                         strength=strength, negative_prompt=NEGATIVE if guidance else None, guidance_scale=guidance,
                         width=width, height=height, steps=STEPS))
    return plan


def draw_mask(name: str) -> Image.Image:
    """A mask of the kind and size that its name says, white where the picture is redrawn."""
    _, shape, size = Path(name).stem.split("_")
    w, h = map(int, size.split("x"))
    # Off the grid of the latents, and not in the middle.
    box = (w // 5 + 3, h // 6 + 1, w * 3 // 4 - 2, h * 4 // 5 + 2)
    mask = Image.new("L", (w, h), 255 if shape == "frame" else 0)
    pen = ImageDraw.Draw(mask)
    if shape == "ellipse":
        pen.ellipse(box, fill=255)
    else:
        pen.rectangle(box, fill=0 if shape == "frame" else 255)
    return mask


def with_mask(case: dict, out: Path) -> dict:
    mask = draw_mask(case["mask"])
    mask.convert("1").save(out / case["mask"], optimize=True)
    return {"mask_image": mask}


if __name__ == "__main__":
    source_pictures.run(__doc__, ZImageInpaintPipeline, "inpaint", cases(), with_mask)
