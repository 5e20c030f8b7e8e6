"""Golden pictures of which a part is redrawn: diffusers' ZImageInpaintPipeline on the demo model in f32.

    .oracle/bin/python tests/oracle/inpaint_goldens.py

The source has the size of the result, so that no resizing of it is compared; some masks have another
size, and are stretched. The pipeline decodes everything: the unmasked pixels are not pasted back.
"""

import argparse
import json
from pathlib import Path

import common
import torch
from diffusers import ZImageInpaintPipeline
from PIL import Image, ImageDraw

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=common.DEFAULT_OUT, help="folder to write (default: tests/goldens)")
    parser.add_argument("--model", type=Path, default=common.DEFAULT_MODEL, help="demo model (default: models/demo)")
    parser.add_argument("--source", type=Path, default=common.DEFAULT_OUT / "pictures" / "00_256x256_seed1_plain.png",
                        help="picture whose middle is drawn from (default: a golden picture)")
    args = parser.parse_args()
    torch.set_num_threads(2)
    out = args.out / "inpaint"
    out.mkdir(parents=True, exist_ok=True)
    pipe = ZImageInpaintPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    whole = Image.open(args.source).convert("RGB")
    plan = cases()
    for case in plan:
        w, h = case["width"], case["height"]
        x, y = (whole.width - w) // 2, (whole.height - h) // 2
        source = whole.crop((x, y, x + w, y + h))
        source.save(out / case["source"], optimize=True)
        mask = draw_mask(case["mask"])
        mask.convert("1").save(out / case["mask"], optimize=True)
        picture = pipe(
            case["prompt"], image=source, mask_image=mask, strength=case["strength"],
            negative_prompt=case["negative_prompt"], num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"], generator=common.generator(case["seed"])).images[0]
        assert picture.size == (w, h)
        picture.save(out / case["file"], optimize=True)
        print(case["file"], flush=True)
    (out / "index.json").write_text(json.dumps({"pictures": plan}, indent=1) + "\n")


if __name__ == "__main__":
    main()
