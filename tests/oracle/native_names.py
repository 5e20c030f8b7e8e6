"""What the demo model's tensors are called in the files of Z-Image's authors and of ComfyUI.

The table below turns diffusers' names into native ones. diffusers' own converters for single files turn a
checkpoint with these names back, and every tensor must come out as it went in; only then is the list written.
"""

import json
import re
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_z_image_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import load_file

QKV = ("to_q", "to_k", "to_v")


def dit(state: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Native name to the diffusers names whose rows it has, one after the other."""
    names = {}
    for name in state:
        block, _, module = name.rpartition(".attention.")
        if module.removesuffix(".weight") in QKV:
            names[f"{block}.attention.qkv.weight"] = [f"{block}.attention.{to}.weight" for to in QKV]
            continue
        native = re.sub(r"^all_(x_embedder|final_layer)\.2-1\.", r"\1.", name)
        native = native.replace(".attention.to_out.0.", ".attention.out.")
        native = re.sub(r"\.attention\.norm_([qk])\.", r".attention.\1_norm.", native)
        names[native] = [name]
    checkpoint = {native: torch.cat([state[part] for part in parts]) for native, parts in names.items()}
    check(state, convert_z_image_transformer_checkpoint_to_diffusers(checkpoint))
    return names


def vae(state: dict[str, torch.Tensor], config: dict) -> dict[str, list[str]]:
    """As `dit`; the attention's matrices are 1x1 convolutions."""
    levels = len(config["block_out_channels"])
    names = {}
    for name in state:
        native = re.sub(r"^decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)
        native = native.replace("down_blocks.", "down.").replace("mid_block.attentions.0.", "mid.attn_1.")
        native = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", native)
        native = native.replace(".resnets.", ".block.").replace("conv_shortcut", "nin_shortcut")
        native = native.replace("upsamplers.0", "upsample").replace("downsamplers.0", "downsample")
        native = re.sub(r"attn_1\.to_([qkv])\.", r"attn_1.\1.", native)
        native = native.replace("attn_1.to_out.0.", "attn_1.proj_out.").replace("attn_1.group_norm", "attn_1.norm")
        names[native.replace("conv_norm_out", "norm_out")] = [name]
    checkpoint = {native: state[parts[0]] for native, parts in names.items()}
    for native, tensor in checkpoint.items():
        if ".attn_1." in native and tensor.dim() == 2:
            checkpoint[native] = tensor[:, :, None, None]
    back = convert_ldm_vae_checkpoint(checkpoint, config)
    check(state, {name: tensor.reshape(state[name].shape) for name, tensor in back.items()})
    return names


def check(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    assert expected.keys() == found.keys(), expected.keys() ^ found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def make(out: Path, model: Path) -> None:
    def state(part: str) -> dict[str, torch.Tensor]:
        return load_file(model / part / "diffusion_pytorch_model.safetensors")

    config = json.loads((model / "vae" / "config.json").read_text())
    names = {"dit": dit(state("transformer")), "vae": vae(state("vae"), config)}
    (out / "native_names.json").write_text(json.dumps(names, indent=1) + "\n")
    print(f"native_names.json: {len(names['dit'])} and {len(names['vae'])} names")
