"""A judge that is not an eye: which of the 1020 concepts does a picture show?

    python judge.py train --data packed --parts PARTS --judge judge --minutes 1.9
    python judge.py check --data packed --parts PARTS --judge judge
    python judge.py score --data packed --judge judge --parts PARTS [bare templates backgrounds colours sizes]

A small residual network, trained from nothing on renders (never on generated pictures) over any background, at any place and
size, blurred, noisy, recoloured, and passed through the VAE. `check` (and `train` at its end) says how well it does on fresh
draws of these, and on distortions that it never saw. `score` draws with the batched networks of nets.py, 8 steps, and counts how often the
prompt's concept is the judge's first guess, or among its first five.
"""
import argparse
import json
import math
import os
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import captions as C
import chats
import nets
import scenes
import train as T
import tune
from train import CUDA, DEV, log

VIEW = 128


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.a, self.b = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(o), nn.BatchNorm2d(o)
        self.skip = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride > 1 or i != o else nn.Identity()

    def forward(self, x):
        return F.relu(self.skip(x) + self.nb(self.b(F.relu(self.na(self.a(x))))))


class Judge(nn.Module):
    def __init__(self, classes, widths=(48, 96, 192, 320)):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        flow = [Block(widths[max(0, k - 1)] if j == 0 else w, w, 2 if j == 0 and k else 1) for k, w in enumerate(widths) for j in (0, 1)]
        self.body, self.head = nn.Sequential(*flow), nn.Linear(widths[-1], classes)

    def forward(self, x):
        """x [B, 3, 128, 128] in 0..1 -> logits"""
        return self.head(self.body(self.stem(x * 2 - 1)).mean((2, 3)))


def view(x):
    """The middle square of pictures in 0..1, as the judge wants it."""
    s = min(x.shape[2:])
    x = x[:, :, (x.shape[2] - s) // 2:(x.shape[2] + s) // 2, (x.shape[3] - s) // 2:(x.shape[3] + s) // 2]
    return F.interpolate(x, size=(VIEW, VIEW), mode="area") if s % VIEW == 0 else F.interpolate(
        x, size=(VIEW, VIEW), mode="bilinear", antialias=True, align_corners=False)


STRANGE = ["sheared", "posterised", "checkered"]  # what training never does


def renders(images, paint, able, idx, side, strange=""):
    """Augmented pictures [B, 3, side, side] of concepts idx."""
    n = len(idx)
    r = lambda *s: torch.rand(*s, device=DEV)
    x = images[idx].float() / 255
    x = x if side == 256 else F.avg_pool2d(x, 256 // side)
    tint = torch.where(able[idx] & (r(n) < 0.2), torch.randint(1, len(C.PALETTE), (n,), device=DEV), -1)
    x = paint(x, idx, tint)
    scale, turn = 0.55 + 0.45 * r(n), (r(n) * 2 - 1) * 0.15
    lean = torch.where(r(n) < 0.5, -0.2, 0.2) * (strange == "sheared")
    wide = scale * (0.92 + 0.16 * r(n))
    c, s = turn.cos(), turn.sin()
    shift = (r(n, 2) * 2 - 1) * (1.06 - scale)[:, None]
    m = torch.stack([torch.stack([c / wide, (s + lean) / scale, -shift[:, 0] / wide], 1),
                     torch.stack([-s / wide, c / scale, -shift[:, 1] / scale], 1)], 1)
    x = F.grid_sample(x, F.affine_grid(m, [n, 4, side, side], align_corners=False), align_corners=False)
    free = r(n, 3)
    named = torch.randint(0, len(C.PALETTE), (n,), device=DEV) * (r(n) < 0.7)
    pick = (r(n) < 0.7)[:, None]
    near, far = (torch.where(pick, p.to(DEV)[named], q) for p, q in zip(T.PAL, (free, (free + 0.3 * torch.randn(n, 3, device=DEV)).clamp(0, 1))))
    bg = T.backdrop(near, far, side, side)
    if strange == "checkered":
        tile = (torch.arange(side, device=DEV) // 16 % 2)
        bg = bg * (0.85 + 0.15 * (tile[:, None] ^ tile[None]))
    x = bg * (1 - x[:, 3:]) + x[:, :3]
    x = (x * (0.85 + 0.3 * r(n, 3, 1, 1)) + 0.16 * (r(n, 1, 1, 1) - 0.5)).clamp(0, 1)
    k = random.choice([1, 1, 2, 2, 3, 4]) * side // 128
    if k > 1:
        soft = F.interpolate(F.interpolate(x, size=side // k, mode="bilinear", antialias=True), size=side, mode="bilinear")
        x = torch.where((r(n) < 0.5)[:, None, None, None], soft, x)
    x = (x + torch.randn_like(x) * 0.04 * r(n, 1, 1, 1)).clamp(0, 1)
    return (x * 6).round() / 6 if strange == "posterised" else x


@torch.no_grad()
def through_vae(vae, info, x, noise):
    z = vae.encode((x * 2 - 1).to(vae.dtype).to(memory_format=torch.channels_last)).latent_dist.mean.float()
    z = z + noise * torch.randn_like(z) * torch.rand(len(z), 1, 1, 1, device=DEV) / info["scaling_factor"]
    return (vae.decode(z.to(vae.dtype)).sample.float() * 0.5 + 0.5).clamp(0, 1)


def train_judge(a):
    concepts = T.load_concepts(a.data)
    images = T.load_images(a.data, concepts)
    paint = scenes.Paint(images, concepts)
    able = torch.zeros(len(concepts), dtype=torch.bool, device=DEV)
    able[paint.able] = True
    _, _, vae, info = tune.parts(a.parts)
    vae = vae.to(torch.bfloat16) if CUDA else vae
    torch.manual_seed(a.seed)
    random.seed(a.seed)
    net = Judge(len(concepts)).to(DEV).to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(net.parameters(), lr=a.lr, weight_decay=0.02, fused=CUDA)
    ema = T.Ema(list(net.parameters()))
    log("judge", sum(p.numel() for p in net.parameters()), "parameters")
    clock, step, n = T.Clock(a.minutes, a.steps), 0, a.batch
    p = clock(0)
    while p < 1:
        idx = torch.randint(0, len(concepts), (n,), device=DEV)
        if step % 4 == 0:
            n4 = n // 4
            x = torch.cat([renders(images, paint, able, idx[n4:], VIEW),
                           view(through_vae(vae, info, renders(images, paint, able, idx[:n4], 256), 0.25))])
            idx = torch.cat([idx[n4:], idx[:n4]])
        else:
            x = renders(images, paint, able, idx, VIEW)
        with torch.autocast(DEV.type, torch.bfloat16, enabled=CUDA):
            y = net(x.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(y.float(), idx, label_smoothing=0.05)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * p))
        opt.step()
        ema.update(step, 0.995)
        step += 1
        if step in (20, 200) and not math.isfinite(loss.item()):
            raise SystemExit("the judge's loss is not finite")
        if step % 200 == 0 or a.steps:
            log(f"judge step {step} p {p:.2f} loss {loss.item():.4f} top1 {(y.argmax(1) == idx).float().mean().item():.3f}")
        p = clock(step)
    ema.swap()
    net.train()  # the averaged weights need their own batch statistics
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.reset_running_stats()
                m.momentum = None
        for _ in range(16 if CUDA else 2):
            net(renders(images, paint, able, torch.randint(0, len(concepts), (n,), device=DEV), VIEW))
    os.makedirs(a.judge, exist_ok=True)
    save_file({k: v.to(torch.bfloat16 if v.is_floating_point() else v.dtype).cpu().contiguous() for k, v in net.state_dict().items()},
              os.path.join(a.judge, "judge.safetensors"))
    check(a)


@torch.no_grad()
def check(a, rounds=4 if CUDA else 1):
    """The judge's own score: every concept, over draws that training did not see."""
    concepts = T.load_concepts(a.data)
    images = T.load_images(a.data, concepts)
    paint = scenes.Paint(images, concepts)
    able = torch.zeros(len(concepts), dtype=torch.bool, device=DEV)
    able[paint.able] = True
    _, _, vae, info = tune.parts(a.parts)
    net = load_judge(a.judge, len(concepts))
    torch.manual_seed(10**6 + a.seed)
    random.seed(10**6 + a.seed)
    kinds = {"fresh draws": lambda i: renders(images, paint, able, i, VIEW),
             "through the VAE": lambda i: view(through_vae(vae, info, renders(images, paint, able, i, 256), 0.0))}
    kinds.update({k: lambda i, k=k: renders(images, paint, able, i, VIEW, k) for k in STRANGE})
    for name, draw in kinds.items():
        good, total = torch.zeros(2, device=DEV), 0
        for _ in range(rounds):
            for i in torch.arange(len(concepts), device=DEV).split(68):
                top = net(draw(i)).topk(5, 1).indices == i[:, None]
                good += torch.stack([top[:, 0].sum(), top.any(1).sum()])
                total += len(i)
        log(name, "top-1, top-5:", [round(v, 4) for v in (good / total).tolist()], "of", total)


# -------------------------------------------------------------------------------------------- score
def load_judge(folder, classes):
    net = Judge(classes).to(DEV)
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(os.path.join(folder, "judge.safetensors")).items()})
    return net.eval()


class Painter:
    """Pictures from chat texts; noise from seeds that belong to the pictures, not to their batch."""

    def __init__(self, data, folder, N=None, vae=None, info=None):
        from tokenizers import Tokenizer
        self.tok = Tokenizer.from_file(os.path.join(data, "tokenizer", "tokenizer.json"))
        if N is None:
            enc, dit, vae, info = tune.parts(folder)
            N = nets.Nets(enc.eval(), dit.eval(), torch.float32)
        self.N, self.vae, self.info = N, vae, info

    @torch.no_grad()
    def __call__(self, texts, H=256, W=256, steps=8, seed=0):
        """-> pictures in 0..1, in the order of the texts"""
        ids = [e.ids[:chats.LIMIT] for e in self.tok.encode_batch(texts, add_special_tokens=False)]
        order = sorted(range(len(ids)), key=lambda k: -(-len(ids[k]) // 32))
        out, i, sg = [None] * len(ids), 0, T.flat_sigmas(steps)
        while i < len(order):
            L = -(-len(ids[order[i]]) // 32) * 32
            part = [k for k in order[i:i + (128 if CUDA else 16)] if -(-len(ids[k]) // 32) * 32 == L]
            t = torch.zeros(len(part), L, dtype=torch.long)
            for r, k in enumerate(part):
                t[r, :len(ids[k])] = torch.tensor(ids[k])
            ln = torch.tensor([len(ids[k]) for k in part], device=DEV)
            cap = self.N.encode(t.to(DEV))
            x = torch.stack([torch.randn(16, H // 8, W // 8, generator=torch.Generator().manual_seed(seed + k)) for k in part]).to(DEV)
            for a, b in zip(sg, sg[1:]):
                x = x + (a - b) * self.N(x, torch.full((len(part),), 1 - a, device=DEV), cap, ln)
            z = (x / self.info["scaling_factor"] + self.info["shift_factor"]).to(self.vae.dtype)
            y = torch.cat([self.vae.decode(c).sample for c in z.split(16)]).float()
            for k, p in zip(part, y):
                out[k] = (p * 0.5 + 0.5).clamp(0, 1).cpu()
            i += len(part)
        return torch.stack(out)


def background(x):
    """Index of the palette's colour nearest to a picture's corners, by its own gradients."""
    H, W = x.shape[2:]
    e = max(4, min(H, W) // 24)
    mean = lambda t: torch.stack([t[:, :, y, z].mean((2, 3)) for y in (slice(0, e), slice(H - e, H)) for z in (slice(0, e), slice(W - e, W))], 1)
    all_ = torch.arange(len(C.PALETTE), device=DEV)
    return (mean(x)[:, None] - mean(T.palette_bg(all_, H, W))[None]).pow(2).sum((2, 3)).argmin(1)


def score(a):
    concepts = T.load_concepts(a.data)
    judge, paint_with = load_judge(a.judge, len(concepts)), Painter(a.data, a.parts)
    say, rng = lambda i: C.article(concepts[i]["name"]), random.Random(a.seed)
    bare = rng.sample(range(len(concepts)), 300)
    result, sheets = {}, a.sheets and (os.makedirs(a.sheets, exist_ok=True) or a.sheets)

    def go(name, texts, truth, seed, H=256, W=256, look=None):
        x = paint_with(texts, H, W, a.steps, seed)
        y = torch.cat([judge(view(c.to(DEV))) for c in x.split(64)]).detach()
        top = (y.topk(5, 1).indices == torch.tensor(truth, device=DEV)[:, None])
        result[name] = dict(n=len(texts), top1=round(top[:, 0].float().mean().item(), 4), top5=round(top.any(1).float().mean().item(), 4))
        if look:
            result[name].update(look(x))
        print(name, json.dumps(result[name]), flush=True)
        if sheets:
            T.save_sheet(F.interpolate(x[:64], scale_factor=0.5, mode="area") if max(H, W) <= 256 else x[:24], f"{sheets}/{name}.jpg")
        return top.any(1)

    if "bare" in a.what:
        go("bare", [chats.chat(say(i)) for i in bare], bare, 10**6 * (a.seed + 1))
    if "templates" in a.what:
        frames, names = chats.templates(a.templates), []
        frames = {"default": ("", None), **frames}
        who = [rng.sample(range(len(concepts)), 5) for _ in frames]
        flat = [i for five in who for i in five]
        go("same_bare", [chats.chat(say(i)) for i in flat], flat, 10**6 * (a.seed + 2))
        hit = go("templates", [chats.chat(say(i), *f) for f, five in zip(frames.values(), who) for i in five], flat, 10**6 * (a.seed + 2))
        new = torch.tensor([chats.unseen_template(n) for n in frames for _ in range(5)], device=DEV)
        result["templates"].update(seen=round(hit[~new].float().mean().item(), 4), unseen=round(hit[new].float().mean().item(), 4),
                                   unseen_n=int(new.sum()), ratio=round(result["templates"]["top5"] / max(result["same_bare"]["top5"], 1e-9), 4))
        print("templates", json.dumps(result["templates"]), flush=True)
    if "backgrounds" in a.what:
        pairs = [(i, c) for i, c in zip(bare[:200], [rng.randrange(1, len(C.PALETTE)) for _ in range(200)])]
        want = torch.tensor([c for _, c in pairs], device=DEV)
        go("backgrounds", [chats.chat(f"{say(i)} on a {C.PALETTE[c][0][0]} background") for i, c in pairs], [i for i, _ in pairs], 10**6 * (a.seed + 3),
           look=lambda x: dict(right=round((background(x.to(DEV)) == want).float().mean().item(), 4)))
    if "colours" in a.what:
        images = T.load_images(a.data, concepts)
        paint = scenes.Paint(images, concepts)
        for name, held in (("colours", False), ("colours_unseen", True)):
            todo = []
            while len(todo) < 120:
                i, c = rng.choice(paint.able), rng.choice([t for t in scenes.TINTS if t])
                if scenes.held_tint(i, c) == held:
                    todo.append((i, c))
            idx, want = (torch.tensor(v, device=DEV) for v in zip(*todo))

            def tint(x):
                """The colour whose repainted render is nearest, at the mean place and size, on white."""
                x = F.interpolate(x.to(DEV), size=64, mode="area")
                far = []
                for c in scenes.TINTS:
                    rows = torch.stack([idx, torch.full_like(idx, -1), torch.zeros_like(idx), torch.full_like(idx, c)], 1)
                    r = scenes.scene(images, paint, rows, torch.zeros(len(idx), 3), 256, 256)
                    far.append((F.interpolate(r, size=64, mode="area") - x).pow(2).mean((1, 2, 3)))
                got = torch.tensor(scenes.TINTS, device=DEV)[torch.stack(far, 1).argmin(1)]
                return dict(right=round((got == want).float().mean().item(), 4))
            go(name, [chats.chat(C.article(f"{C.PALETTE[c][0][0]} {scenes.plain_names(concepts[i])[0]}")) for i, c in todo], [i for i, _ in todo],
               10**6 * (a.seed + 4), look=tint)
    if "sizes" in a.what:
        for W, H in ((192, 192), (320, 320), (384, 384), (384, 256), (256, 384), (288, 192)):
            go(f"{W}x{H}", [chats.chat(say(i)) for i in bare[:100]], bare[:100], 10**6 * (a.seed + 1), H, W)
    if a.json:
        json.dump(result, open(a.json, "w"), indent=1)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("stage", choices=["train", "check", "score"])
    ap.add_argument("what", nargs="*", default=["bare", "templates", "backgrounds", "colours", "sizes"])
    ap.add_argument("--data", default="packed")
    ap.add_argument("--templates", default="../../templates/z_image")
    ap.add_argument("--parts", required=True, help="the model to score, as parts.py writes it; for train and check its VAE alone")
    ap.add_argument("--judge", default="judge", help="the judge's folder")
    ap.add_argument("--json")
    ap.add_argument("--sheets", help="a folder for contact sheets")
    ap.add_argument("--minutes", type=float, default=1.9)
    ap.add_argument("--steps", type=int, default=None)
    ap.add_argument("--batch", type=int, default=512)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    if CUDA:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    args.steps = args.steps if args.steps is not None else 8 if args.stage == "score" else 0
    dict(train=train_judge, check=check, score=score)[args.stage](args)
