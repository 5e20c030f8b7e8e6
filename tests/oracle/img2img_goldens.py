"""Golden pictures drawn from a picture: diffusers' ZImageImg2ImgPipeline on the demo model in f32.

    .oracle/bin/python tests/oracle/img2img_goldens.py

The source has the size of the result, so that no resizing is compared.
"""

from diffusers import ZImageImg2ImgPipeline

import source_pictures

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


if __name__ == "__main__":
    source_pictures.run(__doc__, ZImageImg2ImgPipeline, "img2img", cases())
