"""LoRA files in every spelling that is met in the wild, and what diffusers computes with each.

The files change the transformer of the tiny model. Each has its own random factors. diffusers
(`load_lora_weights`, `fuse_lora`) reads most of them itself; where it does not, the same factors are
given to it under its own names, which is noted in `CONVERTED` with the reason.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from safetensors.torch import load_file, save_file

from common import generator, write

RANK = 2
# Most files hold f16. diffusers multiplies `alpha / rank` into the factors in the file's own type; where that
# would round, the file holds f32, so that the comparison is about the scale and not about a half's last bits.
STORED = {
    "diffusion_model": torch.bfloat16,
    "diffusion_model_alpha": torch.float32,
    "kohya_fused": torch.float32,
}
CASE = (5, 6, 10)  # caption tokens, latent height, latent width
QKV = ("to_q", "to_k", "to_v")

# Formats that diffusers 0.42.1 does not read, and why.
CONVERTED = {
    "base_model": "PEFT's own wrapper prefix is not diffusers'",
    "bare": "diffusers wants the prefix `transformer.` when there is no other sign of a format",
    "native_fused": "fused qkv, out and the embedders' native names are split for kohya's spelling only",
    "kohya_native_top": "the native names of the embedders are not mapped",
    "transformer_alpha": "with `.alpha` keys, diffusers puts a second `transformer.` before the names",
}


def modules(model) -> dict[str, tuple[int, int]]:
    """Every linear layer: name to (out, in)."""
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


def factors(shapes: dict[str, tuple[int, int]], g: torch.Generator) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """name to (down, up): values of f16, as most files hold. The change is about half as large as the weight."""
    pairs = {}
    for name, (outs, ins) in shapes.items():
        down, up = torch.randn((RANK, ins), generator=g) / ins**0.5, 0.35 * torch.randn((outs, RANK), generator=g)
        pairs[name] = (down.half().float(), up.half().float())
    return pairs


def fused(shapes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The native module tree: qkv in one, and other names."""
    native = {}
    for name, (outs, ins) in shapes.items():
        if name.endswith(".to_q"):
            native[name.removesuffix("to_q") + "qkv"] = (3 * outs, ins)
        elif not name.endswith((".to_k", ".to_v")):
            native[name.replace(".to_out.0", ".out")] = (outs, ins)
    return native


def native_top(name: str) -> str:
    return name.replace("all_x_embedder.2-1", "x_embedder").replace("all_final_layer.2-1", "final_layer")


def diffusers_names(pairs: dict) -> dict:
    """Native names to diffusers', fused projections split by rows."""
    plain = {}
    for name, (down, up) in pairs.items():
        name = name.replace("x_embedder", "all_x_embedder.2-1") if name.startswith("x_embedder") else name
        name = name.replace("final_layer", "all_final_layer.2-1", 1) if name.startswith("final_layer") else name
        if name.endswith(".qkv"):
            for part, rows in zip(QKV, up.chunk(3)):
                plain[name.removesuffix("qkv") + part] = (down, rows)
        else:
            plain[name.removesuffix(".out") + ".to_out.0" if name.endswith(".attention.out") else name] = (down, up)
    return plain


def spell(pairs: dict, prefix: str, down: str, up: str, alpha: float | None = None, flat: bool = False) -> dict:
    state = {}
    for name, (a, b) in pairs.items():
        base = prefix + (name.replace(".", "_") if flat else name)
        state[base + down], state[base + up] = a, b
        if alpha is not None:
            state[base + ".alpha"] = torch.tensor(alpha)
    return state


def variants(shapes: dict, seed: int) -> dict[str, tuple[dict, dict | None, dict | None]]:
    """format to (the file's tensors, what diffusers is given instead if not the file, header settings)."""
    ab = (".lora_A.weight", ".lora_B.weight")
    updown = (".lora_down.weight", ".lora_up.weight")
    dots = (".lora.down.weight", ".lora.up.weight")
    blocks = {n: s for n, s in shapes.items() if ".attention." in n or ".feed_forward." in n}
    attention = {n: s for n, s in shapes.items() if ".attention." in n}
    own = {}

    def pairs(which, key):
        own[key] = factors(which, generator(seed * 1000 + 70 + len(own)))
        return own[key]

    def instead(key, scale=1.0):
        return spell({n: (a * scale, b) for n, (a, b) in diffusers_names(own[key]).items()}, "transformer.", *ab)

    out = {}
    out["diffusers"] = (spell(pairs(shapes, "diffusers"), "transformer.", *ab), None, None)
    # Settings as diffusers' save_lora_weights puts them into the header: scale 3 / 2, or 1 / 2 for w2.
    settings = {"r": RANK, "lora_alpha": 3, "alpha_pattern": {"feed_forward.w2": 1}, "use_rslora": False,
                "target_modules": sorted(blocks)}
    out["diffusers_metadata"] = (spell(pairs(blocks, "diffusers_metadata"), "transformer.", *ab), None, settings)
    out["diffusion_model"] = (spell(pairs(shapes, "diffusion_model"), "diffusion_model.", *ab), None, None)
    out["diffusion_model_alpha"] = (
        spell(pairs(blocks, "diffusion_model_alpha"), "diffusion_model.", *ab, alpha=3.0), None, None)
    out["diffusion_model_updown"] = (
        spell(pairs(blocks, "diffusion_model_updown"), "diffusion_model.", *updown, alpha=1.0), None, None)
    out["adapter"] = (
        spell(pairs(attention, "adapter"), "transformer.", ".lora_A.default.weight", ".lora_B.default.weight"),
        spell(own["adapter"], "transformer.", *ab), None)
    out["default"] = (spell(pairs(attention, "default"), "default.", *ab), None, None)
    out["kohya"] = (spell(pairs(shapes, "kohya"), "lora_unet_", *updown, alpha=1.0, flat=True), None, None)
    kohya_fused = fused({n: s for n, s in shapes.items() if "embedder" not in n and "final_layer" not in n})
    out["kohya_fused"] = (
        spell(pairs(kohya_fused, "kohya_fused"), "lora_unet_", *updown, alpha=3.0, flat=True), None, None)
    tops = {native_top(n): s for n, s in shapes.items() if "all_" in n}
    out["kohya_native_top"] = (
        spell(pairs(tops, "kohya_native_top"), "lora_unet_", *updown, alpha=1.0, flat=True),
        instead("kohya_native_top", 1.0 / RANK), None)
    # An external trainer's: `to.q` for `to_q`, and the fused projections once more, which do not count.
    dotted = pairs(attention, "dots")
    state = spell({n.replace("to_q", "to.q").replace("to_k", "to.k").replace("to_v", "to.v"): p
                   for n, p in dotted.items()}, "diffusion_model.", *dots)
    again = factors(fused(attention), generator(seed * 1000 + 69))
    out["dots"] = (state | spell(again, "diffusion_model.", *dots), None, None)
    native = {native_top(n): s for n, s in fused(shapes).items()}
    out["native_fused"] = (
        spell(pairs(native, "native_fused"), "diffusion_model.", *ab), instead("native_fused"), None)
    out["base_model"] = (
        spell(pairs(attention, "base_model"), "base_model.model.", *ab), instead("base_model"), None)
    out["bare"] = (spell(pairs(attention, "bare"), "", *ab), instead("bare"), None)
    out["transformer_alpha"] = (
        spell(pairs(attention, "transformer_alpha"), "transformer.", *updown, alpha=3.0),
        instead("transformer_alpha", 3.0 / RANK), None)
    return out


def save(path: Path, state: dict, settings: dict | None) -> None:
    # One entry at most: the writer puts several in random order.
    metadata = None
    if settings is not None:
        named = {f"transformer.{k}": v for k, v in settings.items()}
        metadata = {"lora_adapter_metadata": json.dumps(named, indent=2, sort_keys=True)}
    save_file({k: v.clone().contiguous() for k, v in state.items()}, str(path), metadata=metadata)


def pipeline(tiny: Path) -> ZImagePipeline:
    model = ZImageTransformer2DModel.from_pretrained(tiny, subfolder="transformer", dtype=torch.float32).eval()
    return ZImagePipeline(scheduler=None, vae=None, text_encoder=None, tokenizer=None, transformer=model)


def forward(model, caption, latents, t):
    return model([latents.unsqueeze(1)], t, [caption], return_dict=False)[0][0].squeeze(1).float()


@torch.no_grad()
def lora(out: Path, tiny: Path, seed: int) -> None:
    """`lora/*.safetensors`, and `lora.safetensors` with the output that each leads to."""
    folder = out / "lora"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plain = pipeline(tiny).transformer
    g = generator(seed * 10 + 7)
    caption = 2.0 * torch.randn((CASE[0], plain.config.cap_feat_dim), generator=g)
    latents = torch.randn((plain.config.in_channels, *CASE[1:]), generator=g)
    t = torch.rand((1,), generator=g)
    inputs = (caption, latents, t)
    tensors = {"caption": caption, "latents": latents, "t": t, "out": forward(plain, *inputs)}

    given = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (state, instead, settings) in variants(modules(plain), seed).items():
            path = folder / f"{name}.safetensors"
            dtype = STORED.get(name, torch.float16)
            save(path, {k: v.to(dtype) if v.ndim == 2 else v for k, v in state.items()}, settings)
            given[name] = path
            if instead is not None:
                given[name] = Path(scratch) / f"{name}.safetensors"
                save(given[name], instead, None)
        for name, path in given.items():
            p = fuse(tiny, {name: (path, 1.0)})
            tensors[f"out_{name}"] = forward(p.transformer, *inputs)
            # A pair that is not read at all would leave the output as it was.
            apart = (tensors[f"out_{name}"] - tensors["out"]).norm() / tensors["out"].norm()
            assert apart > 0.02, f"{name} changes nothing ({apart})"
            print(f"{name}: {apart:.2f} from the plain output")
        both = {"kohya": (given["kohya"], 0.7), "diffusion_model": (given["diffusion_model"], -0.4)}
        p = fuse(tiny, both)
        tensors["out_both"] = forward(p.transformer, *inputs)
        for module in ("layers.1.attention.to_k", "layers.0.feed_forward.w2"):
            tensors[f"both_{module}"] = p.transformer.get_submodule(module).weight
    write(out / "lora.safetensors", tensors)


def fuse(tiny: Path, loras: dict[str, tuple[Path, float]]) -> ZImagePipeline:
    """A fresh model with these fused; the adapter layers are taken away afterwards."""
    p = pipeline(tiny)
    for name, (path, _) in loras.items():
        p.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
    names = list(loras)
    p.set_adapters(names, [scale for _, scale in loras.values()])
    p.fuse_lora(components=["transformer"], adapter_names=names, lora_scale=1.0)
    p.unload_lora_weights()
    return p
