"""Golden resized images: Pillow's Lanczos, which diffusers' image processor uses for the image to draw from.

    .oracle/bin/python tests/oracle/resize_goldens.py --out tests/goldens
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

# Source and target, width x height: enlarged, reduced, either side only, and both orders of the two passes.
SIZES = [((30, 20), (48, 48)), ((64, 48), (16, 32)), ((24, 24), (25, 23)), ((24, 24), (23, 25)), ((12, 90), (40, 48)),
         ((33, 17), (33, 48)), ((33, 17), (64, 17)), ((90, 60), (16, 16))]


def resize(out: Path, seed: int) -> None:
    """Half of each source is noise, where rounding and clipping between the passes shows most; half is smooth."""
    random = np.random.default_rng(seed)
    tensors = {}
    for k, ((width, height), size) in enumerate(SIZES):
        source = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        source[height // 2:] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
        tensors[f"source_{k}"] = source
        tensors[f"resized_{k}"] = np.array(Image.fromarray(source).resize(size, Image.Resampling.LANCZOS))
    save_file(tensors, out / "resize.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sources (default: 0)")
    args = parser.parse_args()
    resize(args.out, args.seed)
