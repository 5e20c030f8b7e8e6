"""LoRA files that are more than two factors, and the weights that PEFT and diffusers make of them.

`lora_kinds/*.safetensors` are the files, and `lora_kinds.safetensors` has the changed weights of the tiny
transformer as NAME/TENSOR. Who computed each:

  lokr, lokr_low     diffusers, `load_lora_weights` and `fuse_lora`
  lokr_fused         torch.kron over the fused projection, cut into thirds; no library splits it
  loha               PEFT's LoHa, merged
  dora, dora_kohya   PEFT's LoRA with `use_dora`, merged
  dora_half          the same, halfway between the plain weight and the merged one, as ComfyUI does it
  fp8                PEFT's LoRA, of the factors as torch widens them
  oft, oft_exact     PEFT's OFT, merged; rotations by its series and exact
  oft_shared         the same with one block for all
  diag_oft           LyCORIS' Diag-OFT: its `diff_weight`, for rows with other lengths and a bound on one module
  diag_oft_fused     the same over the fused projection, cut into thirds
"""

import json
from pathlib import Path

import torch
from common import generator, write
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from lycoris.functional.diag_oft import diff_weight
from peft import LoHaConfig, LoraConfig, OFTConfig, get_peft_model
from safetensors.torch import save_file

MODULES = ("layers.0.attention.to_k", "layers.1.feed_forward.w2")
RANK, ALPHA = 3, 2.0


def plain(tiny: Path) -> ZImageTransformer2DModel:
    return ZImageTransformer2DModel.from_pretrained(tiny, subfolder="transformer", dtype=torch.float32).eval()


def weights(model) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": model.get_submodule(name).weight for name in MODULES}


def random(g: torch.Generator, *shape: int) -> torch.Tensor:
    """Values of f16, so that files can hold them exactly; a product of two is about as large as a weight."""
    return (torch.randn(shape, generator=g) / max(shape[-1], 1) ** 0.5).half().float()


def fused_by_diffusers(tiny: Path, path: Path) -> dict[str, torch.Tensor]:
    pipeline = ZImagePipeline(scheduler=None, vae=None, text_encoder=None, tokenizer=None, transformer=plain(tiny))
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="one")
    pipeline.fuse_lora(components=["transformer"], adapter_names=["one"], lora_scale=1.0)
    pipeline.unload_lora_weights()
    return weights(pipeline.transformer)


def merged_by_peft(tiny: Path, config, parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The weights of the model with these tensors in the adapter's layers."""
    wrapped = get_peft_model(plain(tiny), config)
    for name, tensors in parts.items():
        layer = wrapped.base_model.model.get_submodule(name)
        for attribute, value in tensors.items():
            of = getattr(layer, attribute)["default"]
            target = of.weight if hasattr(of, "weight") else of
            assert target.shape == value.shape, (name, attribute, target.shape, value.shape)
            target.data = value.clone()
    return weights(wrapped.merge_and_unload())


@torch.no_grad()
def lora_kinds(out: Path, tiny: Path, seed: int) -> None:
    folder = out / "lora_kinds"
    folder.mkdir(exist_ok=True)
    base = plain(tiny)
    g = generator(seed * 10 + 9)
    shapes = {name: tuple(base.get_submodule(name).weight.shape) for name in MODULES}
    results: dict[str, dict[str, torch.Tensor]] = {}

    def save(name: str, state: dict[str, torch.Tensor], dtype=torch.float16) -> Path:
        path = folder / f"{name}.safetensors"
        narrow = {k: (v.to(dtype) if v.ndim == 2 else v).contiguous() for k, v in state.items()}
        save_file(narrow, str(path))
        return path

    # 4 x 4 blocks, which is how LyCORIS divides a matrix with `factor=4`.
    lokr, lokr_low = {}, {}
    for name, (outs, ins) in shapes.items():
        key = f"diffusion_model.{name}."
        lokr |= {key + "lokr_w1": random(g, 4, 4), key + "lokr_w2": random(g, outs // 4, ins // 4),
                 # Two whole matrices have no rank, so this counts for nothing.
                 key + "alpha": torch.tensor(1e10)}
        lokr_low |= {key + "lokr_w1": random(g, 4, 4), key + "lokr_w2_a": random(g, outs // 4, RANK),
                     key + "lokr_w2_b": random(g, RANK, ins // 4), key + "alpha": torch.tensor(ALPHA)}
    results["lokr"] = fused_by_diffusers(tiny, save("lokr", lokr))
    # In f32, since diffusers multiplies alpha / rank into a factor in the file's own type.
    results["lokr_low"] = fused_by_diffusers(tiny, save("lokr_low", lokr_low, torch.float32))

    outs, ins = base.layers[0].attention.to_q.weight.shape
    left, right = random(g, 6, 4), random(g, outs * 3 // 6, ins // 4)
    save("lokr_fused", {"lycoris_layers_0_attention_qkv.lokr_w1": left, "lycoris_layers_0_attention_qkv.lokr_w2": right})
    parts = torch.kron(left, right).chunk(3)
    results["lokr_fused"] = {
        f"layers.0.attention.{part}.weight": getattr(base.layers[0].attention, part).weight + delta
        for part, delta in zip(("to_q", "to_k", "to_v"), parts)}

    loha = {name: {"hada_w1_a": random(g, outs, RANK), "hada_w1_b": random(g, RANK, ins),
                   "hada_w2_a": random(g, outs, RANK), "hada_w2_b": random(g, RANK, ins)}
            for name, (outs, ins) in shapes.items()}
    state = {f"lycoris_{name.replace('.', '_')}.{part}": value
             for name, tensors in loha.items() for part, value in tensors.items()}
    state |= {f"lycoris_{name.replace('.', '_')}.alpha": torch.tensor(ALPHA) for name in shapes}
    save("loha", state)
    config = LoHaConfig(r=RANK, alpha=ALPHA, target_modules=list(MODULES), init_weights=False)
    results["loha"] = merged_by_peft(tiny, config, loha)

    def factors() -> dict[str, dict[str, torch.Tensor]]:
        return {name: {"lora_A": random(g, RANK, ins), "lora_B": random(g, outs, RANK)}
                for name, (outs, ins) in shapes.items()}

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(MODULES), use_dora=True)
    dora = factors()
    for name, tensors in dora.items():
        lengths = base.get_submodule(name).weight.norm(dim=1)
        tensors["lora_magnitude_vector"] = (lengths * (0.5 + torch.rand(lengths.shape, generator=g))).half().float()
    results["dora"] = merged_by_peft(tiny, config, dora)
    state = {}
    for name, tensors in dora.items():
        for part, value in tensors.items():
            state[f"base_model.model.{name}.{part}" + (".weight" if part != "lora_magnitude_vector" else "")] = value
        # PEFT writes alpha beside the file; here it is in it.
        state[f"base_model.model.{name}.alpha"] = torch.tensor(ALPHA)
    save("dora", state)
    kohya = {}
    for name, tensors in dora.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        kohya |= {f"{key}.lora_down.weight": tensors["lora_A"], f"{key}.lora_up.weight": tensors["lora_B"],
                  f"{key}.dora_scale": tensors["lora_magnitude_vector"][:, None], f"{key}.alpha": torch.tensor(ALPHA)}
    save("dora_kohya", kohya)
    results["dora_kohya"] = results["dora"]
    before = weights(base)
    results["dora_half"] = {name: before[name] + 0.5 * (after - before[name]) for name, after in results["dora"].items()}

    narrow = {name: {part: value.to(torch.float8_e4m3fn if part == "lora_A" else torch.float8_e5m2)
                     for part, value in tensors.items()} for name, tensors in factors().items()}
    path = folder / "fp8.safetensors"
    save_file({f"transformer.{name}.{part}.weight": value.contiguous()
               for name, tensors in narrow.items() for part, value in tensors.items()}, str(path))
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(MODULES))
    wide = {name: {part: value.float() for part, value in tensors.items()} for name, tensors in narrow.items()}
    results["fp8"] = merged_by_peft(tiny, config, wide)

    # Angles of about a quarter of a radian.
    side = 4

    def triangles(blocks: int) -> dict[str, dict[str, torch.Tensor]]:
        return {name: {"oft_R": (torch.randn((blocks or ins // side, side * (side - 1) // 2), generator=g) / 8).half().float()}
                for name, (_, ins) in shapes.items()}

    for name, blocks, settings in (("oft", 0, {}), ("oft_exact", 0, {"use_cayley_neumann": False}),
                                   ("oft_shared", 1, {"block_share": True, "num_cayley_neumann_terms": 4})):
        parts = triangles(blocks)
        config = OFTConfig(oft_block_size=side, target_modules=list(MODULES), init_weights=False, **settings)
        results[name] = merged_by_peft(tiny, config, parts)
        # PEFT writes the settings beside the file; here they are in it, as diffusers writes a LoRA's.
        header = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in settings.items()})}
        save_file({f"base_model.model.{module}.oft_R.weight": tensors["oft_R"].half().contiguous()
                   for module, tensors in parts.items()}, str(folder / f"{name}.safetensors"), metadata=header)

    def row_blocks(outs: int) -> torch.Tensor:
        return (torch.randn((outs // side, side, side), generator=g) / 8).half().float()

    state, changed = {}, {}
    for at, (name, (outs, _)) in enumerate(shapes.items()):
        blocks = row_blocks(outs)
        # The first one is bounded: LyCORIS multiplies alpha with the rows.
        bound = torch.tensor(0.4 * blocks.norm().item() / outs if at == 0 else 0.0)
        lengths = None if at == 0 else (0.5 + torch.rand((outs, 1), generator=g)).half().float()
        weight = before[name + ".weight"]
        changed[name + ".weight"] = weight + diff_weight(weight, blocks, lengths, constraint=bound.item() * outs, backend="torch")
        key = f"lycoris_{name.replace('.', '_')}"
        state |= {f"{key}.oft_blocks": blocks, f"{key}.alpha": bound}
        if lengths is not None:
            state[f"{key}.rescale"] = lengths
    save("diag_oft", state)
    results["diag_oft"] = changed

    attention = base.layers[0].attention
    fused = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
    blocks = row_blocks(fused.shape[0])
    save("diag_oft_fused", {"lycoris_layers_0_attention_qkv.oft_blocks": blocks})
    parts = (fused + diff_weight(fused, blocks, None, constraint=0, backend="torch")).chunk(3)
    results["diag_oft_fused"] = {f"layers.0.attention.{part}.weight": value
                                 for part, value in zip(("to_q", "to_k", "to_v"), parts)}

    for name, tensors in results.items():
        for tensor, value in tensors.items():
            module, _, attribute = tensor.rpartition(".")
            apart = (value - getattr(base.get_submodule(module), attribute)).norm() / value.norm()
            assert apart > 0.02, f"{name} changes {tensor} by {apart}"
            print(f"{name}: {tensor} changes by {apart:.2f}")
    write(out / "lora_kinds.safetensors", {f"{name}/{tensor}": value for name, tensors in results.items()
                                           for tensor, value in tensors.items()})

