"""Golden tensors: noise, sigma schedules, and the three networks of the tiny random model."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas, retrieve_timesteps
from transformers import Qwen3Model

from common import generator, write

NOISE = [(42, (1, 16, 32, 32)), (7, (1, 16, 6, 10)), (2**32 + 12345, (1, 16, 12, 20)), (3, (3, 5, 7))]
STEPS = (1, 2, 3, 4, 8, 9, 20, 50)
TOKENS = (1, 31, 32, 33, 100)
# (caption tokens, latent height, latent width); 6x10, 12x8 and 10x14 leave image pads, 32x48 does not.
DIT_CASES = [(1, 6, 10), (31, 12, 8), (32, 10, 14), (33, 16, 16), (100, 32, 48), (100, 6, 10), (1, 16, 16)]
BATCHES = {
    "batch": [(5, 12, 8), (40, 12, 8), (70, 12, 8)],
    "mixed": [(5, 12, 8), (70, 6, 10), (33, 16, 16)],
}
TRACED_CASE = 0
DECODE = [(1, 6, 10), (1, 9, 7), (1, 16, 16)]
ENCODE = [(1, 48, 80), (1, 64, 56)]
# Several tiles of 8x8 latents each, with last tiles of every kind: long, short, within the overlap,
# and only one axis to cut. Latent heights and widths.
TILED = [(1, 14, 15), (1, 9, 13), (1, 16, 5), (2, 8, 9)]


@torch.no_grad()
def noise(out: Path, seed: int) -> None:
    """torch's CPU normal distribution; `seed` shifts every listed seed."""
    tensors = {}
    for s, shape in NOISE:
        s += seed
        tensors[f"seed{s}_shape{'x'.join(map(str, shape))}"] = torch.randn(shape, generator=generator(s))
    write(out / "noise.safetensors", tensors)


def schedule(out: Path, model: Path) -> None:
    """Sigmas through the pipeline's own two functions, from the model's scheduler with two shifts."""
    tensors = {}
    for shift in (3.0, 6.0):
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(model, subfolder="scheduler", shift=shift)
        for n in STEPS:
            # mu is what the pipeline passes for 1024x1024; a static shift ignores it.
            timesteps, count = retrieve_timesteps(
                scheduler, n, "cpu", sigmas=get_default_z_image_sigmas(n), mu=1.15)
            assert count == n and scheduler.sigmas.shape == (n + 1,)
            tensors[f"sigmas_shift{shift:g}_{n}"] = scheduler.sigmas.clone()
            tensors[f"model_t_shift{shift:g}_{n}"] = (1000 - timesteps) / 1000
    write(out / "schedule.safetensors", tensors)


@torch.no_grad()
def encoder(out: Path, tiny: Path, seed: int) -> None:
    """All hidden states of the tiny text encoder for a few lengths, without padding."""
    model = Qwen3Model.from_pretrained(tiny, subfolder="text_encoder", dtype=torch.float32).eval()
    g, tensors = generator(seed * 10 + 4), {}
    for n in TOKENS:
        ids = torch.randint(0, model.config.vocab_size, (1, n), generator=g)
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
        tensors[f"ids_{n}"] = ids[0]
        tensors[f"hidden_0_{n}"] = states[0][0]
        for back in (1, 2, 3):
            tensors[f"hidden_m{back}_{n}"] = states[-back][0]
    write(out / "encoder.safetensors", tensors)


def _forward(model, latents, t, captions):
    """The transformer as the pipeline calls it: latents and captions in its dtype, t in f32."""
    dtype = model.dtype
    x = [z.to(dtype).unsqueeze(1) for z in latents]
    out = model(x, t, [c.to(dtype) for c in captions], return_dict=False)[0]
    return [o.squeeze(1).float() for o in out]


def _trace(model, tensors: dict[str, torch.Tensor]) -> list:
    """Record what leaves each stage (batch axis dropped); returns the hook handles."""
    stages = {"t_embed": model.t_embedder, "cap_embed": model.cap_embedder, "x_embed": model.all_x_embedder["2-1"],
              "final": model.all_final_layer["2-1"]}
    for kind in ("noise_refiner", "context_refiner", "layers"):
        stages |= {f"{kind}_{i}": block for i, block in enumerate(getattr(model, kind))}

    def keep(name):
        def hook(_module, _args, result):
            tensors[f"trace_{name}"] = result[0] if result.ndim == 3 or name == "t_embed" else result
        return hook

    return [module.register_forward_hook(keep(name)) for name, module in stages.items()]


@torch.no_grad()
def dit(out: Path, tiny: Path, seed: int) -> None:
    """Single and batched forwards of the tiny transformer, in f32 and in diffusers' own bf16."""
    model = ZImageTransformer2DModel.from_pretrained(tiny, subfolder="transformer", dtype=torch.float32).eval()
    g, tensors, calls = generator(seed * 10 + 5), {}, []

    def inputs(tokens, h, w):
        caption = 2.0 * torch.randn((tokens, model.config.cap_feat_dim), generator=g)
        return caption, torch.randn((model.config.in_channels, h, w), generator=g)

    for k, case in enumerate(DIT_CASES):
        caption, latents = inputs(*case)
        t = torch.rand((1,), generator=g)
        tensors |= {f"caption_{k}": caption, f"latents_{k}": latents, f"t_{k}": t}
        calls.append(([str(k)], [latents], t, [caption]))
    for name, cases in BATCHES.items():
        captions, latents = zip(*(inputs(*case) for case in cases))
        t = torch.rand((len(cases),), generator=g)
        keys = [f"{name}_{i}" for i in range(len(cases))]
        for i, key in enumerate(keys):
            tensors |= {f"caption_{key}": captions[i], f"latents_{key}": latents[i], f"t_{key}": t[i:i + 1]}
        calls.append((keys, latents, t, captions))

    for k, (keys, latents, t, captions) in enumerate(calls):
        hooks = _trace(model, tensors) if k == TRACED_CASE else []
        for key, result in zip(keys, _forward(model, latents, t, captions)):
            tensors[f"out_{key}"] = result
        for hook in hooks:
            hook.remove()
    half = model.to(torch.bfloat16)
    for keys, latents, t, captions in calls:
        for key, result in zip(keys, _forward(half, latents, t, captions)):
            tensors[f"out_bf16_{key}"] = result
    write(out / "dit.safetensors", tensors)


@torch.no_grad()
def vae(out: Path, tiny: Path, seed: int) -> None:
    """Decode and encode of the tiny autoencoder, the last case of each with a batch of two."""
    model = AutoencoderKL.from_pretrained(tiny, subfolder="vae", dtype=torch.float32).eval()
    g, tensors = generator(seed * 10 + 6), {}
    for k, (n, h, w) in enumerate(DECODE + [(2, 6, 10)]):
        latents = torch.randn((n, model.config.latent_channels, h, w), generator=g)
        z = latents / model.config.scaling_factor + model.config.shift_factor
        tensors |= {f"decode_latents_{k}": latents, f"decode_z_{k}": z,
                    f"decode_image_{k}": model.decode(z, return_dict=False)[0]}
    for k, (n, h, w) in enumerate(ENCODE + [(2, 48, 80)]):
        image = torch.rand((n, 3, h, w), generator=g) * 2 - 1
        posterior = model.encode(image).latent_dist
        tensors |= {f"encode_image_{k}": image, f"encode_mean_{k}": posterior.mean,
                    f"encode_logvar_{k}": posterior.logvar}
    write(out / "vae.safetensors", tensors)


@torch.no_grad()
def vae_tiling(out: Path, tiny: Path, seed: int) -> None:
    """Decode of the tiny autoencoder in tiles, and encode of what came out, in tiles again."""
    model = AutoencoderKL.from_pretrained(tiny, subfolder="vae", dtype=torch.float32).eval()
    model.enable_tiling()
    assert (model.tile_latent_min_size, model.tile_sample_min_size, model.tile_overlap_factor) == (8, 64, 0.25)
    g, tensors = generator(seed * 10 + 7), {}
    for k, (n, h, w) in enumerate(TILED):
        z = torch.randn((n, model.config.latent_channels, h, w), generator=g)
        image = model.decode(z, return_dict=False)[0]
        posterior = model.encode(image).latent_dist
        tensors |= {f"z_{k}": z, f"image_{k}": image, f"mean_{k}": posterior.mean, f"logvar_{k}": posterior.logvar}
    write(out / "vae_tiling.safetensors", tensors)
