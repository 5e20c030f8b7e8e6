"""Golden pictures: the demo model through diffusers' ZImagePipeline in f32, and one traced run."""

import json
from pathlib import Path

import torch
from diffusers import ZImagePipeline

from common import generator, write

SUBJECTS = [
    "a red apple on a blue background", "a rocket on a purple background", "a small house in the forest",
    "a fox on a green background", "an owl, pink background", "a wizard", "a palm tree", "a peacock",
    "a grinning face with big eyes", "a mermaid", "a violin on a green background", "a cat and a dog",
    "a strawberry on a white background", "a blue car", "Birthday cake!",
]
STEPS = 8
NEGATIVE = "blurry"
GUIDANCE = 1.5


def load(model: Path) -> ZImagePipeline:
    """The pipeline in f32, quiet."""
    pipe = ZImagePipeline.from_pretrained(model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cases(seed: int) -> list[dict]:
    """What to draw. Another `seed` rotates the prompts and draws other noise."""
    prompts = [SUBJECTS[(5 * seed + i) % len(SUBJECTS)] for i in range(5)]
    seeds = [1000 * seed + 1, 1000 * seed + 42]
    plan = []

    def add(prompt, s, width, height, guidance, **extra):
        kind = "".join(f"_{k.removeprefix('cfg_')}" for k in extra)
        name = f"{len(plan):02d}_{width}x{height}_seed{s}_{'cfg' if guidance else 'plain'}{kind}.png"
        plan.append(dict(file=name, prompt=prompt, negative_prompt=NEGATIVE if guidance else None, seed=s, width=width,
                         height=height, steps=STEPS, guidance_scale=guidance, cfg_normalization=False,
                         cfg_truncation=1.0) | extra)

    for guidance in (0.0, GUIDANCE):
        for prompt in prompts:
            for s in seeds:
                add(prompt, s, 256, 256, guidance)
        for prompt in prompts[:3]:
            add(prompt, seeds[0], 320, 192, guidance)
    add(prompts[0], seeds[0], 256, 256, GUIDANCE, cfg_normalization=True)
    add(prompts[0], seeds[0], 256, 256, GUIDANCE, cfg_truncation=0.5)
    return plan


def draw(pipe: ZImagePipeline, case: dict, **extra):
    """One picture (or latents, by output_type) for one entry of the index."""
    return pipe(
        case["prompt"], negative_prompt=case["negative_prompt"], width=case["width"], height=case["height"],
        num_inference_steps=case["steps"], guidance_scale=case["guidance_scale"],
        cfg_normalization=case["cfg_normalization"], cfg_truncation=case["cfg_truncation"],
        generator=generator(case["seed"]), **extra).images


@torch.no_grad()
def trace(pipe: ZImagePipeline, out: Path, case: dict) -> dict:
    """Everything on the way of one small picture, to find where another implementation departs."""
    case = case | dict(width=128, height=192, file="trace_128x192.png")
    steps = []

    def keep(_pipe, _i, _t, values):
        steps.append(values["latents"].clone())
        return {}

    picture = draw(pipe, case, callback_on_step_end=keep)[0]
    picture.save(out / case["file"], optimize=True)
    embeds, _ = pipe.encode_prompt(case["prompt"], do_classifier_free_guidance=False)
    start = torch.randn((1, 16, case["height"] // 8, case["width"] // 8), generator=generator(case["seed"]))
    z = steps[-1] / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    tensors = {"prompt_embeds": embeds[0], "sigmas": pipe.scheduler.sigmas, "latents_0": start,
               "z": z, "image": pipe.vae.decode(z, return_dict=False)[0]}
    tensors |= {f"latents_{i + 1}": latents for i, latents in enumerate(steps)}
    write(out / "trace.safetensors", tensors)
    return case


def pictures(out: Path, model: Path, seed: int) -> None:
    """Write pictures/*.png, pictures/index.json and pictures/trace.safetensors."""
    out = out / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    pipe = load(model)
    plan = cases(seed)
    for case in plan:
        draw(pipe, case)[0].save(out / case["file"], optimize=True)
        print(case["file"], case["prompt"], flush=True)
    traced = trace(pipe, out, plan[0])
    (out / "index.json").write_text(json.dumps({"pictures": plan, "trace": traced}, indent=1) + "\n")


@torch.no_grad()
def sigma_pictures(out: Path, model: Path, seed: int) -> None:
    """pictures/sigmas_*.png and pictures/sigmas.json: explicit sigmas, which the scheduler shifts."""
    out = out / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    pipe, plan = load(model), []
    for name, sigmas, guidance, width, height in (
            ("plain", [1.0, 0.85, 0.6, 0.3], 0.0, 192, 128), ("cfg", [0.98, 0.9, 0.7, 0.45, 0.2], GUIDANCE, 256, 256),
            ("two", [1.0, 0.65], 0.0, 128, 192)):
        case = dict(file=f"sigmas_{name}.png", prompt=SUBJECTS[seed % len(SUBJECTS)], negative_prompt=NEGATIVE if guidance else None,
                    seed=1000 * seed + 7, width=width, height=height, steps=len(sigmas), guidance_scale=guidance,
                    cfg_normalization=False, cfg_truncation=1.0)
        draw(pipe, case, sigmas=sigmas)[0].save(out / case["file"], optimize=True)
        plan.append(case | dict(sigmas=sigmas))
        print(case["file"], case["prompt"], flush=True)
    (out / "sigmas.json").write_text(json.dumps({"pictures": plan}, indent=1) + "\n")


@torch.no_grad()
def lora_pictures(out: Path, model: Path, seed: int) -> None:
    """pictures/lora_*.png and pictures/loras.json: with the LoRA that ships beside the model, through `load_lora_weights`."""
    out = out / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    pipe = load(model)
    pipe.load_lora_weights(model.parent / "loras", weight_name="blueprint.safetensors")
    pipe.fuse_lora()
    plan = []
    for name, prompt, width, height in (("square", "blueprint of a rocket", 256, 256), ("wide", "a wizard", 192, 128)):
        case = dict(file=f"lora_{name}.png", prompt=prompt, negative_prompt=None, seed=1000 * seed + 1, width=width, height=height,
                    steps=STEPS, guidance_scale=0.0, cfg_normalization=False, cfg_truncation=1.0)
        draw(pipe, case)[0].save(out / case["file"], optimize=True)
        plan.append(case)
        print(case["file"], prompt, flush=True)
    (out / "loras.json").write_text(json.dumps({"pictures": plan}, indent=1) + "\n")
