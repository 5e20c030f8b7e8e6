"""Makes every golden file from diffusers and transformers in float32 on the CPU.

    python -m venv .oracle && .oracle/bin/pip install -r tests/oracle/requirements.txt
    .oracle/bin/python tests/oracle/make_goldens.py

Another `--seed` with another `--out` makes fresh goldens (other weights, inputs, prompts and noise)
that the same Rust tests read through LLM_DIT_GOLDENS. `--only` remakes some of them.
"""

import argparse
from pathlib import Path

import common
import torch

import block_goldens
import chat_goldens
import comfy_goldens
import lora_goldens
import lora_kinds_goldens
import native_names
import pass_goldens
import picture_goldens
import resize_goldens
import scheduler_goldens
import tensor_goldens
import tiny_models
import variation_goldens

PARTS = ("noise", "variation", "schedule", "schedulers", "tiny", "encoder", "dit", "vae", "vae_tiling", "chat", "lora", "lora_kinds", "names", "resize",
         "blocks", "comfy", "pictures", "lora_pictures", "pass_pictures", "scheduler_pictures",
         "sigma_pictures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=common.DEFAULT_OUT, help="folder to write (default: tests/goldens)")
    parser.add_argument("--model", type=Path, default=common.DEFAULT_MODEL, help="demo model (default: models/demo)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, inputs and pictures (default: 0)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to make (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    tiny = args.out / "tiny"
    make = {
        "noise": lambda: tensor_goldens.noise(args.out, args.seed),
        "variation": lambda: variation_goldens.variation(args.out, args.seed),
        "schedule": lambda: tensor_goldens.schedule(args.out, args.model),
        "schedulers": lambda: scheduler_goldens.schedulers(args.out, args.seed),
        "tiny": lambda: tiny_models.build(tiny, args.model, args.seed),
        "encoder": lambda: tensor_goldens.encoder(args.out, tiny, args.seed),
        "dit": lambda: tensor_goldens.dit(args.out, tiny, args.seed),
        "vae": lambda: tensor_goldens.vae(args.out, tiny, args.seed),
        "vae_tiling": lambda: tensor_goldens.vae_tiling(args.out, tiny, args.seed),
        "chat": lambda: chat_goldens.chat(args.out, args.model),
        "lora": lambda: lora_goldens.lora(args.out, tiny, args.seed),
        "lora_kinds": lambda: lora_kinds_goldens.lora_kinds(args.out, tiny, args.seed),
        "resize": lambda: resize_goldens.resize(args.out, args.seed),
        "blocks": lambda: block_goldens.blocks(args.out, args.seed),
        "comfy": lambda: comfy_goldens.comfy(args.out, args.seed),
        "names": lambda: native_names.make(args.out, args.model),
        "pictures": lambda: picture_goldens.pictures(args.out, args.model, args.seed),
        "sigma_pictures": lambda: picture_goldens.sigma_pictures(args.out, args.model, args.seed),
        "lora_pictures": lambda: picture_goldens.lora_pictures(args.out, args.model, args.seed),
        "pass_pictures": lambda: pass_goldens.pass_pictures(args.out, args.model, args.seed),
        "scheduler_pictures": lambda: scheduler_goldens.pictures(args.out, args.model, args.seed),
    }
    for part in PARTS:
        if part in args.only:
            make[part]()
    for file in args.out.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # safetensors writes owner-only files


if __name__ == "__main__":
    main()
