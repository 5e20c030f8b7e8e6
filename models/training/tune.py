"""Train the text encoder and the transformer on, over scenes.py's pictures and chats.py's conversations.

    torchrun --nproc_per_node N tune.py --data packed --templates ../../templates/z_image --resume PARTS --out OUT --minutes M

Starts from PARTS (what parts.py or train.py wrote); the VAE stays as it is. Saves the running average every --save seconds.
"""
import argparse
import copy
import math
import os
import random
import time

import torch
import torch.nn.functional as F

import chats
import nets
import scenes
import train as T
from train import CUDA, DEV, RANK, log

SIDE = 256 if CUDA else 64
OTHER = [(192, 192), (224, 224), (288, 288), (320, 320), (352, 352), (384, 384), (288, 192), (192, 288), (384, 256), (256, 384)]


def parts(folder):
    """(encoder, transformer, vae, its figures) as train.py keeps them."""
    enc, dit = nets.build_encoder(1, 2), nets.build_dit()
    T.load_parts(folder, enc, dit)
    return enc.to(DEV), dit.to(DEV), *T.load_vae(folder)


def encoder_of(vae):
    half = copy.deepcopy(vae.encoder).to(torch.bfloat16 if CUDA else torch.float32)
    return lambda x: half(x.to(next(half.parameters()).dtype))[:, :16]


def levels(n):
    """Noise levels: most as the schedules of any number of steps have them, a third exactly those of 8 steps."""
    u = (torch.randperm(n, device=DEV) + torch.rand(n, device=DEV)) / n
    r = torch.rand(n, device=DEV)
    u = torch.where(r < 0.33, (u * 8).ceil() / 8, u)
    return torch.where(r < 0.85, 3 * u / (1 + 2 * u), u)


def noised(x0, z):
    """(noisy latents, velocity to learn, noise level); the noise says where the subject stands, except for half of
    those latents that show it by themselves."""
    s = levels(len(x0))
    noise = torch.randn_like(x0)
    free = (s < 0.7) & (torch.rand_like(s) < 0.5)
    noise = torch.where(free[:, None, None, None], noise, scenes.couple(noise, z))
    sv = s[:, None, None, None]
    return (1 - sv) * x0 + sv * noise, x0 - noise, s


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--data", default="packed")
    ap.add_argument("--templates", default="../../templates/z_image")
    ap.add_argument("--resume", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=8, help="from the start of the process")
    ap.add_argument("--steps", type=int, default=0, help="a fixed number of steps instead of minutes (tests)")
    ap.add_argument("--batch", type=int, default=256, help="256x256 pictures with a short prompt; others by tokens")
    ap.add_argument("--muon-lr", type=float, default=3e-3, dest="muon_lr")
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--warmup", type=int, default=100)
    ap.add_argument("--decay-from", type=float, default=0.2, dest="decay_from")
    ap.add_argument("--pool", type=int, default=48000, help="encoded 256x256 scenes a GPU; a tenth of it for each other size")
    ap.add_argument("--other-sizes", type=float, default=0.22, dest="other_sizes")
    ap.add_argument("--framed", type=float, default=0.45, help="share of prompts inside a conversation")
    ap.add_argument("--tinted", type=float, default=0.12, help="share of subjects in a colour of the prompt")
    ap.add_argument("--pairs", type=float, default=0.1)
    ap.add_argument("--save", type=float, default=100)
    ap.add_argument("--workers", type=int, default=8)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--eager", action="store_true", help="do not compile")
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    T.begin()
    concepts = T.load_concepts(a.data)
    images = T.load_images(a.data, concepts)
    paint = scenes.Paint(images, concepts)
    log(len(paint.able), "subjects can be repainted")
    enc, dit, vae, info = parts(a.resume)
    descent = T.Descent(enc, dit, a.muon_lr, a.lr, a.warmup, a.decay_from)
    N = nets.Nets(enc, dit, torch.bfloat16 if CUDA else torch.float32, compile=CUDA and not a.eager)
    ema = T.Ema(descent.params)

    seed = a.seed * 100 + RANK
    rng = random.Random(seed)
    torch.manual_seed(seed + 1)
    sizes = [(SIDE, SIDE)] + (OTHER if CUDA else [(64, 96)])
    rows = [scenes.draw_rows(rng, concepts, paint.able, a.pool if k == 0 else a.pool // 10, a.tinted, a.pairs if k == 0 else a.pairs / 2)
            for k in range(len(sizes))]
    area = [h * w // 256 for h, w in sizes]
    share = [1 - a.other_sizes] + [a.other_sizes / (len(sizes) - 1)] * (len(sizes) - 1)
    data = chats.Batches(os.path.join(a.data, "tokenizer", "tokenizer.json"), chats.Writer(concepts, a.templates),
                         list(zip(area, rows)), share, a.batch * (area[0] + 32), seed, a.framed)
    feed = iter(torch.utils.data.DataLoader(data, None, num_workers=a.workers, prefetch_factor=16 if a.workers else None, pin_memory=CUDA))
    encode = encoder_of(vae)
    pools = [scenes.latents(encode, info, images, paint, r, h, w, 64, seed * 50 + k) for k, (r, (h, w)) in enumerate(zip(rows, sizes))]
    std = pools[0][0][:2000].float().std().item()
    log("pools", sum(len(r) for r in rows), "std", std)
    if not math.isfinite(std):
        raise SystemExit("latents are not finite")

    clock, step, saved, acc = T.Clock(a.minutes, a.steps), 0, time.time(), []
    last = time.time()
    p, long = clock(0), 0
    while p < 1:
        k, i, ids, ln = next(feed)
        i, ids, ln = (t.to(DEV, non_blocking=True) for t in (i, ids, ln))
        lat, z = pools[k]
        x, goal, s = noised(lat[i].float(), z[i])
        loss = F.mse_loss(N(x, 1 - s, N.encode(ids), ln), goal)
        loss.backward()
        gn = descent.step(step, p)
        ema.update(step, 0.998)
        step += 1
        acc.append(loss.detach())
        long += ids.shape[1] > 64
        if step % 250 == 0 or step in (1, 10, 50) or a.steps and not CUDA:
            v = torch.stack(acc).mean().item()
            log(f"step {step} p {p:.3f} loss {v:.4f} gnorm {gn.item():.3f} lr {descent.muon.lr:.2e} long {long / len(acc):.2f} "
                f"{(time.time() - last) / len(acc) * 1000:.0f} ms")
            acc, long, last = [], 0, time.time()
            if not math.isfinite(v):
                raise SystemExit("loss is not finite")
        p = clock(step)
        if (time.time() - saved > a.save or p >= 1) and RANK == 0:
            saved = time.time()
            ema.swap()
            T.save_parts(a.out, enc, dit)
            ema.swap()
    if RANK == 0:
        for f in ("vae.safetensors", "vae.json"):
            with open(os.path.join(a.resume, f), "rb") as src, open(os.path.join(a.out, f), "wb") as dst:
                dst.write(src.read())
    log("done", step, "steps", "peak GiB", torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0)
    T.end()


if __name__ == "__main__":
    main()
    os._exit(0)  # the caption workers never end by themselves
