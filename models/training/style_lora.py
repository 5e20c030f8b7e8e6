"""A style LoRA for the demo model: "blueprint", white drafting lines on cyanotype blue.

    python style_lora.py --data packed --parts PARTS --out blueprint.safetensors --minutes 1.2

The style is a filter over the renders, so it needs no pictures beside those of the model itself. Rank 8 on the attention and
feed-forward matrices of the transformer; keys as diffusers and PEFT write them (docs/guide/lora.md). Half of the prompts carry the
trigger words, so it works with and without them.
"""
import argparse
import math
import os
import random

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import chats
import nets
import scenes
import train as T
import tune
from train import CUDA, DEV, log

TRIGGER = "blueprint of"
PAPER, DEEP, INK = (0.13, 0.31, 0.62), (0.07, 0.20, 0.46), (0.93, 0.97, 1.0)


def blueprint(x):
    """Pictures [B, 3, H, W] in 0..1 over white -> the same, drafted."""
    rgb = lambda c: torch.tensor(c, device=x.device)[None, :, None, None]
    soft = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
    gx = (soft[..., 1:-1, 2:] - soft[..., 1:-1, :-2]).abs().amax(1, keepdim=True)
    gy = (soft[..., 2:, 1:-1] - soft[..., :-2, 1:-1]).abs().amax(1, keepdim=True)
    edge = F.pad((gx * gx + gy * gy).sqrt(), (1, 1, 1, 1))
    line = ((edge - 0.035) / 0.09).clamp(0, 1)
    dark = 1 - x.mean(1, keepdim=True)
    paper = torch.lerp(rgb(PAPER), rgb(DEEP), ((0.9 * dark) ** 1.2).clamp(0, 1))
    return torch.lerp(paper, rgb(INK), line)


class Adapted(nets.Nets):
    """The transformer with B @ A added to the matrices of its blocks; everything else stays still."""

    def __init__(self, enc, dit, rank, dtype):
        super().__init__(enc, dit, dtype)
        self.factors = {}
        for name, m in dit.named_modules():
            if isinstance(m, torch.nn.Linear) and (".attention.to_" in name or ".feed_forward.w" in name):
                a = torch.randn(rank, m.in_features, device=DEV) / math.sqrt(m.in_features)
                self.factors[name] = (a.requires_grad_(), torch.zeros(m.out_features, rank, device=DEV, requires_grad=True))
        self.layers = {id(dit.get_submodule(n).weight): n for n in self.factors}

    def run(self, b, x, cs, c):
        def changed(w):
            name = self.layers.get(id(w))
            return w if name is None else w + self.factors[name][1] @ self.factors[name][0]
        a = b.adaLN_modulation[0] if c is not None else None
        return self.block(x, *cs, c, *((a.weight, a.bias) if a else (None, None)), *map(changed, nets.block_params(b)))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", default="packed")
    ap.add_argument("--templates", default="../../templates/z_image")
    ap.add_argument("--parts", required=True)
    ap.add_argument("--out", default="blueprint.safetensors")
    ap.add_argument("--minutes", type=float, default=1.2)
    ap.add_argument("--steps", type=int, default=0)
    ap.add_argument("--rank", type=int, default=8)
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--pool", type=int, default=8000)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--workers", type=int, default=4)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--sheet", help="a contact sheet to write")
    a = ap.parse_args()
    concepts = T.load_concepts(a.data)
    images = T.load_images(a.data, concepts)
    paint = scenes.Paint(images, concepts)
    enc, dit, vae, info = tune.parts(a.parts)
    enc.requires_grad_(False)
    dit.requires_grad_(False)
    torch.manual_seed(a.seed)
    rng = random.Random(a.seed)
    N = Adapted(enc, dit, a.rank, torch.bfloat16 if CUDA else torch.float32)
    factors = [f for pair in N.factors.values() for f in pair]
    opt = torch.optim.AdamW(factors, lr=a.lr, weight_decay=0.0)
    log("LoRA", sum(f.numel() for f in factors), "parameters in", len(N.factors), "matrices")

    class Triggered(chats.Writer):
        def prompt(self, rng, row):
            text, subject = super().prompt(rng, row)
            return (f"{TRIGGER} {text}" if rng.random() < 0.5 else text), subject

    S = 256 if CUDA else 64
    rows = scenes.draw_rows(rng, concepts, paint.able, a.pool, tinted=0.05, pairs=0.05)
    drawn = rows.copy()
    drawn[:, 2] = 0  # a blueprint is on blueprint paper, whatever the prompt says
    lat, z = scenes.latents(tune.encoder_of(vae), info, images, paint, drawn, S, S, 64, a.seed, look=blueprint)
    data = chats.Batches(os.path.join(a.data, "tokenizer", "tokenizer.json"), Triggered(concepts, a.templates),
                         [(S * S // 256, rows)], [1], a.batch * (S * S // 256 + 32), a.seed, framed=0.15, blank=0.0)
    feed = iter(torch.utils.data.DataLoader(data, None, num_workers=a.workers, prefetch_factor=8 if a.workers else None))
    clock, step, acc = T.Clock(a.minutes, a.steps), 0, []
    p = clock(0)
    while p < 1:
        _, i, ids, ln = (t.to(DEV) if torch.is_tensor(t) else t for t in next(feed))
        x, goal, s = tune.noised(lat[i].float(), z[i])
        loss = F.mse_loss(N(x, 1 - s, N.encode(ids), ln), goal)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1, (step + 1) / 50) * (1 - p)
        opt.step()
        step += 1
        acc.append(loss.detach())
        if step % 100 == 0 or a.steps:
            log(f"lora step {step} p {p:.2f} loss {torch.stack(acc).mean().item():.4f}")
            acc = []
        p = clock(step)
    out = {}
    for name, (down, up) in N.factors.items():
        out[f"transformer.{name}.lora_A.weight"] = down.detach().to(torch.bfloat16).cpu().contiguous()
        out[f"transformer.{name}.lora_B.weight"] = up.detach().to(torch.bfloat16).cpu().contiguous()
    save_file(out, a.out, {"format": "pt"})
    os.chmod(a.out, 0o644)
    log("saved", a.out, os.path.getsize(a.out), "bytes after", step, "steps")
    if a.sheet:
        from judge import Painter
        pick = random.Random(9).sample(range(len(concepts)), 32)
        words = [("" if k % 2 else TRIGGER + " ") + T.C.article(concepts[i]["name"]) for k, i in enumerate(pick)]
        T.save_sheet(Painter(a.data, None, N, vae, info)([chats.chat(w) for w in words], S, S), a.sheet)


if __name__ == "__main__":
    main()
    os._exit(0)
