"""Times the stages of diffusers' Z-Image on a GPU, as `llm-dit bench` times ours.

    pip install torch diffusers==0.42.1 transformers accelerate
    python3 benches/diffusers_gpu.py --compile > diffusers.jsonl
    llm-dit bench --compare diffusers.jsonl

Weights are random and of Z-Image-Turbo's true shapes, so no files are needed. Each line on stdout is a
measurement: {"name": ..., "variant": "eager" or "compiled", "ms": ...}. Names are those of the rows of
`llm-dit bench`, which is what pairs them. What each row means: docs/reference/performance.md. A size that does not
fit into memory is a line with an "error" in place of "ms".

Times are medians from an idle device to an idle device after runs that do not count. The VAE is timed in
both memory layouts, a line each. With --compile the transformer's blocks are compiled, which
takes minutes and is not part of any time.
"""

import argparse
import gc
import io
import json
import statistics
import sys
import time

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

DEVICE = "cuda"
GROUPS = ("encode", "forward", "vae", "image")


def numbers(text):
    return [int(word) for word in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(GROUPS),
                        help=f"what to measure, with commas between: {', '.join(GROUPS)}")
    parser.add_argument("--sizes", type=numbers, default=[512, 768, 1024, 1536, 2048])
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4])
    parser.add_argument("--text-tokens", type=int, default=100)
    parser.add_argument("--forwards", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--dtype", choices=["bf16", "f16", "f32"], default="bf16")
    parser.add_argument("--vae-dtype", choices=["bf16", "f16", "f32"], default=None, help="default: --dtype")
    parser.add_argument("--compile", action="store_true", help="measure forward and image compiled as well")
    args = parser.parse_args()
    unknown = sorted(set(args.only) - set(GROUPS))
    if unknown:
        parser.error(f"--only knows {', '.join(GROUPS)}, not {', '.join(unknown)}")
    return args


def dtype_of(name):
    return {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[name]


def build(constructor, dtype):
    """A model on the device in `dtype`, with the random weights that our bench has: matrices normal with a
    deviation of 0.02, norms 1, biases 0."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(DEVICE):
            model = constructor()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.02)
            else:
                torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)


def transformer(dtype):
    return build(lambda: ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=3840, n_layers=30, n_refiner_layers=2,
        n_heads=30, n_kv_heads=30, norm_eps=1e-5, qk_norm=True, cap_feat_dim=2560, rope_theta=256.0,
        t_scale=1000.0, axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512]), dtype)


def autoencoder(dtype):
    levels = 4
    return build(lambda: AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=16, block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2, norm_num_groups=32, sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159,
        use_quant_conv=False, use_post_quant_conv=False), dtype)


def text_encoder(dtype):
    return build(lambda: Qwen3Model(Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=1e6,
        max_position_embeddings=40960)), dtype)


class Stopwatch:
    def __init__(self, args):
        self.runs, self.warm_up = args.runs, args.warm_up

    def median_ms(self, work, slow=False):
        """The median of `work`'s times. Work that takes seconds is done less often."""
        runs, warm_up = (min(self.runs, 3), min(self.warm_up, 1)) if slow else (self.runs, self.warm_up)
        times = []
        for index in range(warm_up + runs):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            done = work()
            torch.cuda.synchronize()
            took = time.perf_counter() - begun
            del done
            if index >= warm_up:
                times.append(took * 1e3)
        return statistics.median_high(times)

    def row(self, name, variant, prepare, slow=False):
        """Prints one line. `prepare` returns the work, so that what it needs is made inside the guard."""
        torch.cuda.reset_peak_memory_stats()
        line = {"name": name, "variant": variant}
        try:
            with torch.no_grad():
                line["ms"] = round(self.median_ms(prepare(), slow), 4)
            line["peak_bytes"] = torch.cuda.max_memory_allocated()
        except torch.OutOfMemoryError:
            line["error"] = "out of memory"
        except Exception as error:  # The next row has its chance.
            line["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        gc.collect()
        torch.cuda.empty_cache()
        print(json.dumps(line), flush=True)


def forward_rows(watch, args, model, variant):
    dtype = dtype_of(args.dtype)
    for size in args.sizes:
        for batch in args.batches:
            def prepare(size=size, batch=batch):
                latents = [torch.randn(16, 1, size // 8, size // 8, device=DEVICE, dtype=dtype) for _ in range(batch)]
                captions = [torch.randn(args.text_tokens, 2560, device=DEVICE, dtype=dtype) for _ in range(batch)]
                times = torch.full((batch,), 0.5, device=DEVICE)
                return lambda: model(latents, times, captions, return_dict=False)
            watch.row(f"forward {size}x{size} b{batch}", variant, prepare)


def image_rows(watch, args, model, vae, variant):
    """Embeddings on the host to the bytes of a PNG."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False)
    pipe = ZImagePipeline(scheduler=scheduler, vae=vae, text_encoder=None, tokenizer=None, transformer=model)
    pipe.set_progress_bar_config(disable=True)
    embeddings = torch.randn(args.text_tokens, 2560, dtype=dtype_of(args.dtype))
    for size in args.sizes:
        def work(size=size):
            picture = pipe(prompt_embeds=[embeddings.to(DEVICE)], height=size, width=size, guidance_scale=0.0,
                           num_inference_steps=args.forwards).images[0]
            file = io.BytesIO()
            # Our level is as fast as PNG goes; so is this one.
            picture.save(file, format="PNG", compress_level=1)
            return file.getvalue()
        watch.row(f"image {size}x{size} x{args.forwards}", variant, lambda work=work: work, slow=True)


def encode_rows(watch, args):
    model = text_encoder(dtype_of(args.dtype))
    for tokens in (64, 512):
        def prepare(tokens=tokens):
            ids = torch.randint(0, 4000, (1, tokens))
            return lambda: model(input_ids=ids.to(DEVICE), output_hidden_states=True).hidden_states[-2].cpu()
        watch.row(f"encode {tokens} tokens", "eager", prepare)


def decode_rows(watch, args, vae):
    for layout, variant in ((torch.contiguous_format, "eager"), (torch.channels_last, "eager, channels last")):
        vae.to(memory_format=layout)
        for size in args.sizes:
            def prepare(size=size):
                z = torch.randn(1, 16, size // 8, size // 8, device=DEVICE, dtype=vae.dtype)
                return lambda: vae.decode(z, return_dict=False)[0]
            watch.row(f"decode {size}x{size}", variant, prepare)


def main():
    args = arguments()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device answers")
    torch.manual_seed(0)
    watch = Stopwatch(args)
    dtype = dtype_of(args.dtype)

    side = 8192
    def product():
        a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
        return lambda: a @ b
    watch.row(f"matmul {side}^3", "eager", product)

    if "encode" in args.only:
        encode_rows(watch, args)
        gc.collect()
        torch.cuda.empty_cache()
    vae = autoencoder(dtype_of(args.vae_dtype or args.dtype)) if {"vae", "image"} & set(args.only) else None
    if "vae" in args.only:
        decode_rows(watch, args, vae)
    if not {"forward", "image"} & set(args.only):
        return
    model = transformer(dtype)
    for variant in ("eager", "compiled") if args.compile else ("eager",):
        if variant == "compiled":
            # For each shape its own code, which is faster than code for any shape.
            from torch import _dynamo
            _dynamo.config.recompile_limit = 256
            _dynamo.config.accumulated_recompile_limit = 1024
            model.compile_repeated_blocks(fullgraph=True, dynamic=False)
        if "forward" in args.only:
            forward_rows(watch, args, model, variant)
        if "image" in args.only:
            image_rows(watch, args, model, vae, variant)


if __name__ == "__main__":
    main()
