"""Golden pictures drawn from a picture: diffusers' ZImageImg2ImgPipeline on the demo model in f32.

    .oracle/bin/python tests/oracle/img2img_goldens.py

The source has the size of the result, so that no resizing is compared.
"""

import argparse
import json
from pathlib import Path

import common
import torch
from diffusers import ZImageImg2ImgPipeline
from PIL import Image

NEGATIVE = "blurry"
STEPS = 8


def cases() -> list[dict]:
    """Every first step that matters (few, some, all steps), guidance, and both orientations."""
    plan = []
    for prompt, seed, strength, guidance, width, height in [
        ("an owl, pink background", 1, 0.6, 0.0, 128, 192),
        ("an owl, pink background", 42, 0.3, 0.0, 128, 192),
        ("a wizard", 7, 1.0, 0.0, 128, 192),
        ("a blue car", 42, 0.6, 1.5, 192, 128),
        ("a strawberry on a white background", 3, 0.9, 0.0, 192, 128),
        ("a strawberry on a white background", 3, 0.05, 0.0, 192, 128),
    ]:
        name = f"{len(plan)}_{width}x{height}_seed{seed}_strength{strength}{'_cfg' if guidance else ''}.png"
        plan.append(dict(file=name, source=f"source_{width}x{height}.png", prompt=prompt, seed=seed, strength=strength,
                         negative_prompt=NEGATIVE if guidance else None, guidance_scale=guidance, width=width,
                         height=height, steps=STEPS))
    return plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=common.DEFAULT_OUT, help="folder to write (default: tests/goldens)")
    parser.add_argument("--model", type=Path, default=common.DEFAULT_MODEL, help="demo model (default: models/demo)")
    parser.add_argument("--source", type=Path, default=common.DEFAULT_OUT / "pictures" / "00_256x256_seed1_plain.png",
                        help="picture whose middle is drawn from (default: a golden picture)")
    args = parser.parse_args()
    torch.set_num_threads(2)
    out = args.out / "img2img"
    out.mkdir(parents=True, exist_ok=True)
    pipe = ZImageImg2ImgPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    whole = Image.open(args.source).convert("RGB")
    plan = cases()
    for case in plan:
        w, h = case["width"], case["height"]
        x, y = (whole.width - w) // 2, (whole.height - h) // 2
        source = whole.crop((x, y, x + w, y + h))
        source.save(out / case["source"], optimize=True)
        picture = pipe(
            case["prompt"], image=source, strength=case["strength"], negative_prompt=case["negative_prompt"],
            num_inference_steps=case["steps"], guidance_scale=case["guidance_scale"],
            generator=common.generator(case["seed"])).images[0]
        assert picture.size == (w, h)
        picture.save(out / case["file"], optimize=True)
        print(case["file"], flush=True)
    (out / "index.json").write_text(json.dumps({"pictures": plan}, indent=1) + "\n")


if __name__ == "__main__":
    main()
