"""A GGUF file with a tensor of every type that llm-dit reads, and gguf-py's expansion of each to f32.

    .oracle/bin/python tests/oracle/block_goldens.py --out tests/goldens

Bytes are random, so that every code and every scale occurs; only the f16 scales are kept to sane numbers.
gguf-py quantizes few types, but expands all of them.
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFWriter
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Where the f16 numbers of a block are, in bytes.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    Type.IQ4_NL: [0], Type.IQ4_XS: [0],
}
PLAIN = {Type.F32: np.float32, Type.F16: np.float16, Type.BF16: np.uint16}


def rows(random: np.random.Generator, kind: Type, shape: tuple[int, int]) -> np.ndarray:
    """Random rows as they lie in a file."""
    if kind in PLAIN:
        values = random.normal(size=shape).astype(np.float32)
        if kind == Type.BF16:
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.astype(PLAIN[kind])
    values, size = GGML_QUANT_SIZES[kind]
    count = shape[0] * shape[1] // values
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES[kind]:
        scales = random.normal(size=count) * 10.0 ** random.integers(-6, 2, count)
        blocks[:, at:at + 2] = scales.astype(np.float16).view(np.uint8).reshape(count, 2)
    return blocks.reshape(shape[0], -1)


def blocks(out: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    folder = out / "packed"
    folder.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(folder / "blocks.gguf", "none")
    writer.add_uint32("none.block_count", 7)
    writer.add_float32("none.epsilon", 1e-6)
    writer.add_array("none.words", ["a", "\u00e9"])
    writer.add_array("none.numbers", [3, 1, 2])
    expanded = {}
    for kind in [*PLAIN, *HALVES]:
        shape = (2, 256) if GGML_QUANT_SIZES[kind][0] == 256 else (3, 64)
        data = rows(random, kind, shape)
        name = f"{kind.name.lower()}.weight"
        writer.add_tensor(name, data, raw_dtype=kind)
        expanded[name] = dequantize(data, kind).astype(np.float32).reshape(shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expanded, folder / "blocks.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the blocks (default: 0)")
    args = parser.parse_args()
    blocks(args.out, args.seed)
