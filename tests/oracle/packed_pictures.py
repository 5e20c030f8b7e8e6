"""Quantized transformers beside diffusers: one file, drawn by llm-dit and, expanded by gguf-py, by diffusers.

    cargo build --release
    .oracle/bin/python tests/oracle/packed_pictures.py target/release/llm-dit

Quantizes the demo model's transformer with gguf-py under the names of the authors' files, lets `llm-dit generate`
draw from the GGUF file, packed and expanded, and diffusers in float32 from the same weights. Prints the PSNR of
each picture and exits with 1 if one is below 45 dB.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import DEFAULT_MODEL, DEFAULT_OUT, generator
from diffusers import ZImagePipeline
from gguf import GGMLQuantizationType as Type, GGUFWriter
from gguf.quants import dequantize, quantize
from PIL import Image

TYPES = (Type.Q8_0, Type.Q5_1, Type.Q5_0, Type.Q4_1, Type.Q4_0, Type.BF16, Type.F16)
PROMPT, SEED, STEPS, SIZE = "a red apple on a blue background", 1, 8, 256
LEAST = 45.0


def quantized(state: dict[str, torch.Tensor], kind: Type, path: Path) -> dict[str, torch.Tensor]:
    """Writes the file; gives what it says, under diffusers' names."""
    native = json.loads((DEFAULT_OUT / "native_names.json").read_text())["dit"]
    writer = GGUFWriter(path, "lumina2")
    expanded = {}
    for name, parts in native.items():
        values = torch.cat([state[part] for part in parts]).float().numpy()
        # As the converters do: layers only, and no vectors.
        packed = kind if name.startswith("layers.") and values.ndim == 2 else Type.F32
        data = quantize(values, packed)
        writer.add_tensor(name, data, raw_dtype=packed)
        rows = torch.from_numpy(dequantize(data, packed).reshape(values.shape).astype(np.float32))
        for part, share in zip(parts, rows.chunk(len(parts))):
            expanded[part] = share.reshape(state[part].shape).clone()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expanded


def psnr(ours: Path, theirs: Image.Image) -> float:
    a, b = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (Image.open(ours), theirs))
    mean = ((a - b) ** 2).mean()
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


@torch.no_grad()
def main(program: str) -> int:
    pipeline = ZImagePipeline.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    plain = {name: tensor.clone() for name, tensor in pipeline.transformer.state_dict().items()}
    worst = math.inf
    with tempfile.TemporaryDirectory() as folder:
        for kind in TYPES:
            path, picture = Path(folder) / "dit.gguf", Path(folder) / "picture.png"
            pipeline.transformer.load_state_dict(quantized(plain, kind, path))
            theirs = pipeline(PROMPT, width=SIZE, height=SIZE, num_inference_steps=STEPS, guidance_scale=0.0,
                              generator=generator(SEED)).images[0]
            for weights in ("packed", "expanded"):
                subprocess.run([program, "generate", PROMPT, "--seed", str(SEED), "--steps", str(STEPS), "--width",
                                str(SIZE), "--height", str(SIZE), "--device", "cpu", "--model-path", DEFAULT_MODEL,
                                "--dit-path", path, "--weights", weights, "--output", picture, "--quiet"],
                               check=True, stdout=subprocess.DEVNULL)
                found = psnr(picture, theirs)
                worst = min(worst, found)
                print(f"{kind.name}, {weights}: {found:.1f} dB from diffusers")
    return int(worst < LEAST)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
