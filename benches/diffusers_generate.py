"""The least a diffusers user writes for one picture; timed as a whole process by side_by_side.py.

    python benches/diffusers_generate.py MODEL PROMPT --seed 1 --output picture.png
"""

import argparse
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import ZImagePipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", default="picture.png")
    args = parser.parse_args()

    pipe = ZImagePipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(args.prompt, width=args.width, height=args.height, num_inference_steps=args.steps,
                 guidance_scale=0.0, generator=torch.Generator("cpu").manual_seed(args.seed)).images[0]
    image.save(args.output)


if __name__ == "__main__":
    main()
