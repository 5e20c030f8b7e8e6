"""Fits the linear map from latents to colours that previews are made with: MODEL/vae/latent_preview.json.

    python latent_preview.py --model ../demo

Draws pictures through diffusers' ZImagePipeline (fp32, CPU; `tests/oracle/requirements.txt`), encodes them
with the model's own VAE, and solves least squares between the scaled latents, as the transformer sees them,
and the pictures shrunk by 8, in -1 to 1. Every fourth picture is held out and measured. To be run again
after the VAE was trained again.
"""
import argparse
import json
import math
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from diffusers import ZImagePipeline

import captions as C

SUBJECTS = ["red apple", "rocket", "peacock", "wizard", "palm tree", "mermaid", "owl", "violin", "blue car", "strawberry",
            "small house", "fox", "crown", "frog", "pizza", "sunflower"]
SEED = 20_000  # far from the seeds of the goldens and of the tests


def draw(pipe: ZImagePipeline, count: int) -> list[np.ndarray]:
    """Pictures (H, W, 3) of 8 bits, each of another subject, background and seed."""
    colours = [names[0] for names, *_ in C.PALETTE]
    out = []
    for i in range(count):
        prompt = f"a {SUBJECTS[i % len(SUBJECTS)]} on a {colours[i % len(colours)]} background"
        generator = torch.Generator("cpu").manual_seed(SEED + i)
        image = pipe(prompt, width=256, height=256, num_inference_steps=8, guidance_scale=0.0, generator=generator).images[0]
        out.append(np.asarray(image.convert("RGB")))
    return out


@torch.no_grad()
def rows(vae, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scaled latents (n, channels) and the colours (n, 3) of the same places."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    mean = vae.encode(pixels).latent_dist.mode()
    latents = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    small = torch.nn.functional.avg_pool2d(pixels, pixels.shape[-1] // latents.shape[-1])
    flat = lambda x: x[0].flatten(1).T.double().numpy()
    return flat(latents), flat(small)


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """In dB, both in -1 to 1."""
    return 10 * math.log10(4 / np.mean((np.clip(ours, -1, 1) - theirs) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parents[1] / "demo", help="default: ../demo")
    parser.add_argument("--count", type=int, default=64, help="pictures (default: 64)")
    args = parser.parse_args()

    torch.set_num_threads(2)
    pipe = ZImagePipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pairs = [rows(pipe.vae, picture) for picture in draw(pipe, args.count)]
    design = lambda latents: np.hstack([latents, np.ones((len(latents), 1))])
    fitted, held = [p for i, p in enumerate(pairs) if i % 4], pairs[::4]
    solution, *_ = np.linalg.lstsq(design(np.vstack([x for x, _ in fitted])), np.vstack([y for _, y in fitted]), rcond=None)
    solution = solution.round(4)
    print("fitted  ", " ".join(f"{psnr(design(x) @ solution, y):.1f}" for x, y in fitted), "dB")
    print("held out", " ".join(f"{psnr(design(x) @ solution, y):.1f}" for x, y in held), "dB")
    source = f"least squares over {len(fitted)} pictures of the model itself, by models/training/latent_preview.py"
    lines = ",\n    ".join(json.dumps(row.tolist()) for row in solution[:-1])
    text = f'{{\n  "source": {json.dumps(source)},\n  "factors": [\n    {lines}\n  ],\n  "bias": {json.dumps(solution[-1].tolist())}\n}}\n'
    json.loads(text)
    file = args.model / "vae" / "latent_preview.json"
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(file)
    print(file)


if __name__ == "__main__":
    main()
