"""Pictures with guidance whose negative pass goes without some LoRAs: diffusers with PEFT's adapters, not fused.

`ZImagePipeline` gives the transformer both prompts in one call. Here that call becomes two: the prompt's with all
adapters enabled, the negative prompt's with those for both passes only.
"""

import json
from pathlib import Path

import torch
from PIL import ImageChops, ImageStat

from common import generator
from picture_goldens import GUIDANCE, NEGATIVE, STEPS, draw, load

FILE = "blueprint.safetensors"
# (name, prompt, width, height, more of the case, LoRAs). The same file twice makes two adapters.
CASES = [
    ("alone", "blueprint of a rocket", 128, 192, {}, [(1.0, "positive")]),
    ("beside", "a wizard", 192, 128, {"cfg_truncation": 0.6}, [(0.3, "both"), (0.7, "positive")]),
]


def enable(transformer, adapters: dict[str, float]) -> None:
    """Exactly these adapters, each with its scale."""
    if adapters:
        transformer.enable_adapters()
        transformer.set_adapters(list(adapters), list(adapters.values()))
    else:
        transformer.disable_adapters()


def in_two_passes(transformer, everywhere: dict[str, float], positive: dict[str, float]):
    """A forward that computes the second half of its items, the negative prompts, without `positive`."""
    forward = transformer.forward

    def both(latents, t, captions, **more):
        count = len(latents) // 2 or 1
        outs = []
        for at in range(0, len(latents), count):
            enable(transformer, everywhere if at else everywhere | positive)
            here = slice(at, at + count)
            outs += forward(latents[here], t[here], captions[here], **more)[0]
        return (outs,)

    return both


@torch.no_grad()
def pass_pictures(out: Path, model: Path, seed: int) -> None:
    """pictures/pass_*.png and pictures/passes.json."""
    out, plan = out / "pictures", []
    out.mkdir(parents=True, exist_ok=True)
    for name, prompt, width, height, more, loras in CASES:
        pipe = load(model)
        passes = {"both": {}, "positive": {}}
        for at, (scale, which) in enumerate(loras):
            pipe.load_lora_weights(model.parent / "loras", weight_name=FILE, adapter_name=f"lora_{at}")
            passes[which][f"lora_{at}"] = scale
        case = dict(file=f"pass_{name}.png", prompt=prompt, negative_prompt=NEGATIVE, seed=1000 * seed + 1, width=width,
                    height=height, steps=STEPS, guidance_scale=GUIDANCE, cfg_normalization=False, cfg_truncation=1.0) | more
        # In both passes, it would be another picture.
        enable(pipe.transformer, passes["both"] | passes["positive"])
        plain = draw(pipe, case)[0]
        pipe.transformer.forward = in_two_passes(pipe.transformer, passes["both"], passes["positive"])
        picture = draw(pipe, case)[0]
        apart = ImageStat.Stat(ImageChops.difference(picture, plain)).mean
        assert max(apart) > 3, f"{name}: the pass makes no difference ({apart})"
        picture.save(out / case["file"], optimize=True)
        plan.append(case | dict(loras=[dict(scale=scale, **{"pass": which}) for scale, which in loras]))
        print(case["file"], prompt, f"{max(apart):.1f} of 255 from both passes", flush=True)
    (out / "passes.json").write_text(json.dumps({"pictures": plan}, indent=1) + "\n")
