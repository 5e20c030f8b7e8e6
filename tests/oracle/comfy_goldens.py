"""ComfyUI's quantized layers in a safetensors file, and comfy-kitchen's expansion of each on the CPU in f32.

    .oracle/bin/python tests/oracle/comfy_goldens.py --out tests/goldens

Bytes are random, so that every code and every scale occurs; NaN codes are left out, and scales are sane.
"""

import argparse
import json
from pathlib import Path

import torch
from comfy_kitchen.backends.eager import quantization as eager
from safetensors.torch import save_file

E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu


class File:
    """Layers as they are written, and their values."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.tensors: dict[str, torch.Tensor] = {}
        self.values: dict[str, torch.Tensor] = {}
        self.layers: dict[str, object] = {}

    def bytes(self, *shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=self.generator)

    def floats(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Random codes of a small float, all finite."""
        codes = self.bytes(*shape)
        finite = torch.isfinite(codes.view(dtype).float())
        return torch.where(finite, codes, codes & 0x3F).view(dtype)

    def scale(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator) * 0.1 + 0.001

    def swizzled(self, rows: int, blocks: int) -> tuple[int, ...]:
        return (rows + 127) // 128 * 128, (blocks + 3) // 4 * 4

    def layer(self, name: str, values: torch.Tensor, weight: torch.Tensor, about: object = None, *, header: bool = False,
              **beside: torch.Tensor) -> None:
        self.values[f"{name}.weight"] = values.float().contiguous()
        self.tensors[f"{name}.weight"] = weight
        self.tensors |= {f"{name}.{key}": tensor for key, tensor in beside.items()}
        if header:
            # The model's prefix may be missing there.
            self.layers[name.removeprefix("model.")] = about
        elif about is not None:
            text = json.dumps(about).encode()
            self.tensors[f"{name}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)


def comfy(out: Path, seed: int) -> None:
    file = File(seed)
    for dtype, label in ((E4M3, "e4m3"), (E5M2, "e5m2")):
        weight = file.floats(dtype, 3, 24)
        file.layer(f"plain_{label}", weight, weight)
        weight, scale = file.floats(dtype, 3, 24), file.scale()
        values = eager.dequantize_per_tensor_fp8(weight, scale, torch.float32)
        file.layer(f"older_{label}", values, weight, scale_weight=scale, scale_input=torch.ones(()))
        weight, scale = file.floats(dtype, 3, 24), file.scale(1)
        values = eager.dequantize_per_tensor_fp8(weight, scale, torch.float32)
        about = {"format": f"float8_{label}{'fn' if dtype == E4M3 else ''}", "full_precision_matrix_mult": True}
        file.layer(f"mixed_{label}", values, weight, about, weight_scale=scale, input_scale=torch.ones(()))
    weight, scale = file.floats(E4M3, 3, 24), file.scale(3, 1)
    file.layer("rows_e4m3", weight.float() * scale, weight.view(torch.uint8), {"format": "float8_e4m3fn"}, weight_scale=scale)

    for rows, columns in ((130, 32), (2, 96)):
        weight, scale = file.bytes(rows, columns // 2), file.scale()
        blocks = file.floats(E4M3, *file.swizzled(rows, columns // 16))
        values = eager.dequantize_nvfp4(weight, scale, blocks, torch.float32)
        file.layer(f"model.nvfp4_{rows}", values, weight, {"format": "nvfp4"}, header=True, weight_scale=blocks,
                   weight_scale_2=scale)
    for rows, columns in ((130, 32), (2, 160)):
        weight = file.floats(E4M3, rows, columns)
        blocks = torch.randint(100, 140, file.swizzled(rows, columns // 32), dtype=torch.uint8, generator=file.generator)
        values = eager.dequantize_mxfp8(weight, blocks.view(E8M0), torch.float32)
        file.layer(f"mxfp8_{rows}", values, weight, {"format": "mxfp8"}, weight_scale=blocks)

    weight, scale = file.bytes(3, 24).view(torch.int8), file.scale()
    file.layer("int8", eager.dequantize_int8_simple(weight, scale), weight, "int8_tensorwise", header=True, weight_scale=scale)
    weight, scale = file.bytes(3, 24).view(torch.int8), file.scale(3, 1)
    file.layer("int8_rows", eager.dequantize_int8_simple(weight, scale), weight, {"format": "int8_tensorwise"},
               weight_scale=scale)
    for group, about in ((256, {"convrot": True}), (64, {"params": {"convrot": True, "convrot_groupsize": 64}})):
        weight, scale = file.bytes(3, 2 * group).view(torch.int8), file.scale(3, 1)
        values = eager.dequantize_int8_convrot_weight(weight, scale, group)
        file.layer(f"convrot_{group}", values, weight, {"format": "int8_tensorwise", **about}, weight_scale=scale)

    folder = out / "packed"
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": file.layers})}
    save_file({name: tensor.contiguous() for name, tensor in file.tensors.items()}, folder / "comfy.safetensors", metadata)
    save_file(file.values, folder / "comfy_values.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bytes (default: 0)")
    args = parser.parse_args()
    comfy(args.out, args.seed)
