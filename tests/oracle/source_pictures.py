"""What the goldens of pictures that are drawn from a picture share: the sources, the call, the index."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import common
import torch
from PIL import Image


def run(description: str, pipeline: type, folder: str, plan: list[dict],
        more: Callable[[dict, Path], dict] = lambda case, out: {}) -> None:
    """Draws every case into `folder`. `more` gives what the pipeline is called with besides."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=common.DEFAULT_OUT, help="folder to write (default: tests/goldens)")
    parser.add_argument("--model", type=Path, default=common.DEFAULT_MODEL, help="demo model (default: models/demo)")
    parser.add_argument("--source", type=Path, default=common.DEFAULT_OUT / "pictures" / "00_256x256_seed1_plain.png",
                        help="picture whose middle is drawn from (default: a golden picture)")
    args = parser.parse_args()
    torch.set_num_threads(2)
    out = args.out / folder
    out.mkdir(parents=True, exist_ok=True)
    pipe = pipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    whole = Image.open(args.source).convert("RGB")
    for case in plan:
        w, h = case["width"], case["height"]
        x, y = (whole.width - w) // 2, (whole.height - h) // 2
        source = whole.crop((x, y, x + w, y + h))
        source.save(out / case["source"], optimize=True)
        picture = pipe(
            case["prompt"], image=source, strength=case["strength"], negative_prompt=case["negative_prompt"],
            num_inference_steps=case["steps"], guidance_scale=case["guidance_scale"],
            generator=common.generator(case["seed"]), **more(case, out)).images[0]
        assert picture.size == (w, h)
        picture.save(out / case["file"], optimize=True)
        print(case["file"], flush=True)
    (out / "index.json").write_text(json.dumps({"pictures": plan}, indent=1) + "\n")
