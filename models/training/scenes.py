"""Scenes for the later stages: rows of (concept, second concept or -1, background, subject's colour or -1).

What train.py's scenes have, and three things more:
- a subject can wear a colour of the palette ("a blue car"): its dominant hue is repainted, light and shade stay;
- where a subject stands and how large it is follows from three numbers z ~ N(0, 1);
- `couple` puts those same numbers into the noise, as the means of its first three channels. Each such noise is still
  N(0, I), but it now says which of the possible pictures it leads to. Without this the first steps can only aim at the
  average of all places, and a few steps of Euler never get quite rid of that blur.
"""
import math
import re

import numpy as np
import torch
import torch.nn.functional as F

import captions as C
from train import PAL, palette_bg, paste, sized

TINTS = [i for i in range(len(C.PALETTE)) if i != 6]  # light blue is not asked of a subject
COLOUR_WORD = re.compile(r"\b(" + "|".join(w for p in C.PALETTE for w in p[0]) + r"|gold|golden|silver|bronze|grey|rainbow|dark|light)\b")
# Faces, hands and people keep their own colours.
PEOPLE = [(0x1F385, 0x1F385), (0x1F3C2, 0x1F3CC), (0x1F440, 0x1F450), (0x1F464, 0x1F487), (0x1F574, 0x1F57A), (0x1F590, 0x1F596), (0x1F600, 0x1F64F),
          (0x1F6A3, 0x1F6A3), (0x1F6B4, 0x1F6B6), (0x1F6C0, 0x1F6C0), (0x1F90C, 0x1F93E), (0x1F970, 0x1F97A), (0x1F9B4, 0x1F9BF), (0x1F9CD, 0x1F9E0),
          (0x1FAC0, 0x1FAC5), (0x1FAE0, 0x1FAFF), (0x2639, 0x263A), (0x26F9, 0x26F9), (0x261D, 0x261D), (0x270A, 0x270D)]


def plain_names(c):
    """What a subject is called when the prompt names its colour: no colour of its own in it."""
    return [n for n in [c["name"]] + c["aliases"] if not COLOUR_WORD.search(n)]


def hsv(rgb):
    top, low = rgb.amax(1), rgb.amin(1)
    d = (top - low).clamp_min(1e-6)
    r, g, b = rgb.unbind(1)
    hue = torch.where(top == r, ((g - b) / d) % 6, torch.where(top == g, (b - r) / d + 2, (r - g) / d + 4)) / 6
    return hue, (top - low) / top.clamp_min(1e-6), top


class Paint:
    """Which concepts can be repainted, and how."""

    def __init__(self, images, concepts, least=0.42):
        hue, value, share = [], [], []
        for x in images.split(64):
            x = x.float() / 255
            a = x[:, 3]
            h, s, v = hsv(x[:, :3] / x[:, 3:].clamp_min(1 / 255))
            w = a * (s > 0.25) * s
            bins = torch.zeros(len(x), 36, device=x.device).scatter_add_(1, (h * 36).long().clamp(0, 35).flatten(1), w.flatten(1))
            peak = sum(bins.roll(k, 1) for k in (-2, -1, 0, 1, 2)).argmax(1)
            mid = (peak + 0.5) / 36
            near = a * (s > 0.25) * (self.away(h, mid) < 0.1)
            hue.append(mid)
            value.append((near * v).sum((1, 2)) / near.sum((1, 2)).clamp_min(1))
            share.append(near.sum((1, 2)) / a.sum((1, 2)).clamp_min(1))
        self.hue, self.value, self.share = torch.cat(hue), torch.cat(value).clamp_min(0.1), torch.cat(share)

        def human(c):
            first = int(c["file"].split("-")[0].split(".")[0], 16)
            return any(lo <= first <= hi for lo, hi in PEOPLE)
        self.able = [i for i, c in enumerate(concepts)
                     if self.share[i] >= least and plain_names(c) and not human(c) and not COLOUR_WORD.search(c["name"])]

    @staticmethod
    def away(hue, mid):
        return ((hue - mid[:, None, None] + 0.5) % 1 - 0.5).abs()

    def __call__(self, x, idx, tint):
        """Premultiplied x [B, 4, H, W] of these concepts in these colours of the palette (-1: as it is)."""
        a = x[:, 3:]
        rgb = x[:, :3] / a.clamp_min(1 / 255)
        h, s, v = hsv(rgb)
        ramp = lambda t, lo, hi: ((t - lo) / (hi - lo)).clamp(0, 1)
        mask = (1 - ramp(self.away(h, self.hue[idx]), 0.1, 0.15)) * ramp(s, 0.1, 0.25) * (tint >= 0)[:, None, None]
        shade = (v / self.value[idx][:, None, None])[:, None]
        goal = (0.6 * PAL[0].to(x.device)[tint] + 0.4 * PAL[1].to(x.device)[tint])[:, :, None, None]
        new = torch.where(shade <= 1, goal * shade ** 1.3, goal + (1 - goal) * ((shade - 1) * 1.2).clamp(0, 1))
        return torch.cat([torch.lerp(rgb, new, mask[:, None]) * a, a], 1)


def held_tint(concept, tint):
    """Subjects and colours that training never sees together (about 1 in 12)."""
    return C.held_out(concept + 5000, tint)


def draw_rows(rng, concepts, able, n, tinted=0.12, pairs=0.0):
    weight = [1.6 if c["aliases"] else 1.0 for c in concepts]
    ids, out = range(len(concepts)), []
    for a, b in zip(rng.choices(ids, weight, k=n), rng.choices(ids, weight, k=n)):
        r, tint = rng.random(), -1
        bg = 0 if rng.random() < 0.38 else rng.randrange(1, len(C.PALETTE))
        if r < tinted:
            a, b, tint = rng.choice(able), -1, rng.choice(TINTS)
            tint = -1 if held_tint(a, tint) else tint
            bg = bg if bg != tint else (bg + 4) % len(C.PALETTE)  # or nothing would be seen of it
        elif r > 1 - pairs and a != b:
            bg = bg if rng.random() < 0.5 and not C.held_out(b, bg) else 0
        else:
            b = -1
        out.append((a, b, 0 if C.held_out(a, bg) else bg, tint))
    return np.array(sorted(out, key=lambda r: r[1] >= 0), np.int64)  # single subjects first


def uniform(z):
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


LO, HI, SHARE = 0.82, 0.92, 0.5  # size of a subject within the short side, and how much of the free room it moves in


def scene(images, paint, rows, z, H, W):
    """Pictures [B, 3, H, W] in 0..1 of rows that all hold one subject, or all two; z[:, 0] is the same in all."""
    a, b, bg, tint = rows.unbind(1)
    u = uniform(z).tolist()
    x = palette_bg(bg, H, W)
    short = min(H, W)
    if rows[0, 1] >= 0:
        s, half = int(W * (0.44 + 0.04 * u[0][0])) & ~1, W // 2
        oy = [(H - s) // 2 + round((v[1] - 0.5) * H / 16) for v in u]
        side = (half - s) // 2
        paste(x, sized(images, a, s), oy, [side] * len(a))
        return paste(x, sized(images, b, s), oy, [half + side] * len(a))
    s = int(short * (LO + (HI - LO) * u[0][0])) & ~1
    free = short - s
    at = lambda v, long: (long - short) // 2 + round(free / 2 + (v - 0.5) * free * SHARE)
    full = images[a].float() / 255
    full = paint(full, a, tint) if bool((tint >= 0).any()) else full
    full = F.interpolate(full, size=(s, s), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    return paste(x, full, [at(v[1], H) for v in u], [at(v[2], W) for v in u])


def couple(noise, z):
    """The same noise with z [B, 3] as the (scaled) means of its first three channels."""
    n = noise.shape[2] * noise.shape[3]
    m = noise[:, :3].mean((2, 3))
    return torch.cat([noise[:, :3] + (z / math.sqrt(n) - m)[:, :, None, None], noise[:, 3:]], 1)


@torch.no_grad()
def latents(encode, info, images, paint, rows, H, W, chunk, seed, look=None):
    """Scaled latents [n, 16, H/8, W/8] in bf16 and the z [n, 3] of their places; a chunk shares its size.
    look: a filter over finished pictures (a style)."""
    z = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(seed))
    rows, out = torch.from_numpy(rows), []
    cut = int((rows[:, 1] < 0).sum())
    for lo, hi in ((0, cut), (cut, len(rows))):
        for i in range(lo, hi, chunk):
            j = min(i + chunk, hi)
            z[i:j, 0] = z[i, 0]
            x = scene(images, paint, rows[i:j].to(images.device), z[i:j], H, W)
            x = look(x) if look else x
            q = encode((x * 2 - 1).to(memory_format=torch.channels_last))
            out.append(((q.float() - info["shift_factor"]) * info["scaling_factor"]).to(torch.bfloat16).contiguous())
    return torch.cat(out), z.to(images.device)
