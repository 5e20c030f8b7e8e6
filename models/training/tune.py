"""Train the text encoder and the transformer on, over scenes.py's pictures and chats.py's conversations.

    torchrun --nproc_per_node N tune.py --data packed --templates ../../templates/z_image --resume PARTS --out OUT --minutes M

Starts from PARTS (what parts.py or train.py wrote); the VAE stays as it is. Saves the running average every --save seconds.
"""
import argparse
import copy
import json
import math
import os
import random
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import chats
import nets
import scenes
import train as T
from train import CUDA, DEV, RANK, WORLD, log

SIDE = 256 if CUDA else 64
OTHER = [(192, 192), (224, 224), (288, 288), (320, 320), (352, 352), (384, 384), (288, 192), (192, 288), (384, 256), (256, 384)]


def parts(folder):
    """(encoder, transformer, vae, its figures) as train.py keeps them."""
    enc, dit, vae = nets.build_encoder(1, 2), nets.build_dit(), nets.build_vae()
    get = lambda part: {k[4:]: v.float() for k, v in load_file(os.path.join(folder, f"dit_{part}.safetensors")).items()}
    enc.load_state_dict(get("enc"), strict=False)
    dit.load_state_dict(get("dit"))
    vae.load_state_dict({k: v.float() for k, v in load_file(os.path.join(folder, "vae.safetensors")).items()})
    vae = vae.to(DEV).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return enc.to(DEV), dit.to(DEV), vae, json.load(open(os.path.join(folder, "vae.json")))


def encoder_of(vae):
    half = copy.deepcopy(vae.encoder).to(torch.bfloat16 if CUDA else torch.float32)
    return lambda x: half(x.to(next(half.parameters()).dtype))[:, :16]


def levels(n):
    """Noise levels: most as the schedules of any number of steps have them, a third exactly those of 8 steps."""
    u = (torch.randperm(n, device=DEV) + torch.rand(n, device=DEV)) / n
    r = torch.rand(n, device=DEV)
    u = torch.where(r < 0.33, (u * 8).ceil() / 8, u)
    return torch.where(r < 0.85, 3 * u / (1 + 2 * u), u)


def save(folder, enc, dit):
    for part, net in (("enc", enc), ("dit", dit)):
        file = os.path.join(folder, f"dit_{part}.safetensors")
        save_file({f"{part}.{k}": v.to(torch.bfloat16).cpu().contiguous() for k, v in net.state_dict().items() if k != "lm_head.weight"}, file + ".new")
        os.replace(file + ".new", file)


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
    if CUDA:
        torch.cuda.set_device(DEV)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch._dynamo.config.recompile_limit = 64
    if WORLD > 1:
        dist.init_process_group("nccl" if CUDA else "gloo", **(dict(device_id=DEV) if CUDA else {}))
    concepts = T.load_concepts(a.data)
    images = T.load_images(a.data, concepts)
    paint = scenes.Paint(images, concepts)
    log(len(paint.able), "subjects can be repainted")
    enc, dit, vae, info = parts(a.resume)
    mats, rest = T.split_params(enc, dit)
    params = mats + rest
    N = nets.Nets(enc, dit, torch.bfloat16 if CUDA else torch.float32, compile=CUDA and not a.eager)
    muon, ema = T.Muon(mats, a.muon_lr), T.Ema(params)
    adam = torch.optim.AdamW(rest, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=CUDA)

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
        T.all_reduce_grads(params)
        gn = torch.nn.utils.clip_grad_norm_(params, 1.0)
        pace = min(1.0, (step + 1) / a.warmup) * (1.0 if p < a.decay_from else max(0.0, 1 - (p - a.decay_from) / (1 - a.decay_from)))
        muon.lr = a.muon_lr * pace
        for g in adam.param_groups:
            g["lr"] = a.lr * pace
        muon.step()
        adam.step()
        for q in params:
            q.grad = None
        ema.update(step, 0.998)
        step += 1
        acc.append(loss.detach())
        long += ids.shape[1] > 64
        if step % 250 == 0 or step in (1, 10, 50) or a.steps and not CUDA:
            v = torch.stack(acc).mean().item()
            log(f"step {step} p {p:.3f} loss {v:.4f} gnorm {gn.item():.3f} pace {pace:.3f} long {long / len(acc):.2f} "
                f"{(time.time() - last) / len(acc) * 1000:.0f} ms")
            acc, long, last = [], 0, time.time()
            if not math.isfinite(v):
                raise SystemExit("loss is not finite")
        p = clock(step)
        if (time.time() - saved > a.save or p >= 1) and RANK == 0:
            saved = time.time()
            ema.swap()
            save(a.out, enc, dit)
            ema.swap()
    if RANK == 0:
        for f in ("vae.safetensors", "vae.json"):
            with open(os.path.join(a.resume, f), "rb") as src, open(os.path.join(a.out, f), "wb") as dst:
                dst.write(src.read())
    log("done", step, "steps", "peak GiB", torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0)
    if WORLD > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
    os._exit(0)  # the caption workers never end by themselves
