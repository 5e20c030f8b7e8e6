"""Chats for the later stages: the prompts of captions.py inside conversations that talk about anything else.

A prompt's subject has to win over the system prompt, the thinking and the answer around it. So these are filled with
this program's templates, sentences torn from several of them, random words, and the names of other subjects and colours.
"""
import glob
import hashlib
import os
import random
import re

import numpy as np
import torch

import captions as C
import scenes

LIMIT = 512  # tokens; what the encoder is given at most


def read_template(path):
    """(body, thinking or None for no block) of a template file; the few keys that matter here, without a YAML library."""
    _, front, body = open(path, encoding="utf-8").read().split("---\n", 2)
    think = re.search(r"^thinking_content: \|\n((?:  .*\n?)+)", front, re.M)
    block = not re.search(r"^add_think_block: false", front, re.M)
    text = "\n".join(l[2:] for l in think[1].rstrip().split("\n")) if think else ""
    return body.strip(), (text if block or text else None)


def unseen_template(name):
    """Templates that training never sees (about 1 in 6): how well prompts do under those tells how well under yours."""
    return hashlib.md5(name.encode()).digest()[0] % 6 == 0


def templates(folder):
    """{name: (body, thinking)}, `default` left out: it is the bare prompt."""
    out = {os.path.basename(f)[:-3]: read_template(f) for f in sorted(glob.glob(os.path.join(folder, "*.md")))}
    out.pop("default")
    return out


def chat(prompt, system="", think=None, answer=""):
    """The layout of crates/chat, as text."""
    out = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    out += f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    if think is not None:
        out += f"<think>\n{think}\n</think>\n\n"
    return out + (answer + "<|im_end|>" if answer else "")


OTHER = [
    "Think of {x}.", "Last time you drew {x}.", "You love {x}.", "It must not look like {x}.", "There could be {x} nearby.", "Draw like {x} would.",
    "An example is {x}.", "{x}", "I remember {x} and {y}.", "People often ask for {x} or {y}.", "For example: {x}, {y}.", "Not {x}, not {y}.",
    "Paint as if the subject were {x}.", "{x} on a {c} background", "Use {c} and {d}.", "Everything is {c}.", "The background is {c}.",
    "The light is {c} and the shadows are {d}.", "You are {x} who paints.", "Beside it I imagine {x}.", "A {c} glow lies over {x}.",
]
ABOUT = ["The user wants {s}.", "So: {s}.", "I will draw {s}.", "The subject is {s}.", "Okay, {s}, that is clear.", "The picture shows {s}.", "I think of {s}."]


class Writer:
    def __init__(self, concepts, folder):
        self.concepts = concepts
        seen = [t for n, t in templates(folder).items() if not unseen_template(n)]
        self.templates = seen
        text = [t for body, think in seen for t in (body, think) if t]
        self.sentences = sorted({s for t in text for s in re.split(r"(?<=[.!?])\s+", t)})
        words = {w for t in text for w in re.findall(r"[A-Za-z][a-z'-]+", t)}
        self.words = sorted(words | {k for c in concepts for k in c["keywords"]} | {w for p in C.PALETTE for w in p[0]})

    def other(self, rng):
        a, b = rng.sample(self.concepts, 2)
        (c,), (d,) = rng.sample([p[0][:1] for p in C.PALETTE], 2)
        return rng.choice(OTHER).format(x=C.article(C.pick_name(rng, a)), y=C.article(C.pick_name(rng, b)), c=c, d=d)

    def noise_text(self, rng, sure):
        """Sentences, other subjects and bare words in any order."""
        r, out = rng.random(), []
        if r < 0.5:
            out = rng.sample(self.sentences, rng.randint(1, 6))
        elif r < 0.75:
            out = [" ".join(rng.choices(self.words, k=rng.randint(3, 70)))]
        else:
            out = rng.sample(C.GENERAL, rng.randint(1, 4))
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
            out.insert(rng.randint(0, len(out)), self.other(rng))
        if sure and rng.random() < 0.5:
            out.insert(rng.randint(0, len(out)), sure)
        return " ".join(out)

    def around(self, rng, prompt, subject):
        """The prompt in a conversation. What the thinking says of the subject, if anything, is true."""
        think, answer = None, ""
        about = rng.choice(ABOUT).format(s=subject) if rng.random() < 0.5 else ""
        r = rng.random()
        if r < 0.4:
            system, think = rng.choice(self.templates)
        elif r < 0.5:
            body, think = rng.choice(self.templates)
            parts = re.split(r"(?<=[.!?])\s+", body)
            system = " ".join(rng.sample(parts, rng.randint(1, len(parts))))
        elif r < 0.8:
            system = self.noise_text(rng, "")
        else:
            system = ""
        if rng.random() < (0.3 if system else 0.9):
            k = rng.random()
            think = "" if k < 0.25 else " ".join(rng.sample(C.THINK, rng.randint(1, 4))) if k < 0.45 else self.noise_text(rng, about)
        if rng.random() < 0.06:
            answer = about or self.noise_text(rng, "")
        return chat(prompt, system, think, answer)

    def prompt(self, rng, row):
        a, b, bg, tint = (int(v) for v in row)
        one = self.concepts[a]
        if b >= 0:
            return C.pair(rng, one, self.concepts[b], bg), ""
        if tint < 0:
            return C.single(rng, one, bg), C.article(one["name"])
        word = rng.choice(C.PALETTE[tint][0])
        n = f"{word} {rng.choice(scenes.plain_names(one))}"
        x = C.with_bg(rng, rng.choice(C.FRAMES).format(s=C.article(n), n=n), bg)
        if rng.random() < 0.15:
            x += ", " + ", ".join(rng.sample(C.STYLE, rng.randint(1, 2)))
        return C.polish(rng, x), C.article(n)

    def caption(self, rng, row, framed):
        prompt, subject = self.prompt(rng, row)
        if rng.random() < framed:
            return self.around(rng, prompt, subject)
        r = rng.random()
        if r < 0.12:
            prompt = prompt.rstrip(" .!") + ". " + " ".join(rng.sample(C.LONG, rng.randint(1, 3)))
        elif r < 0.17:
            prompt = prompt.rstrip(" .!") + ", " + ", ".join(rng.sample(C.STYLE, rng.randint(3, 7)))
        return chat(prompt, think="" if rng.random() < 0.06 else None)


class Batches(torch.utils.data.IterableDataset):
    """Endless batches (shape, picture indices [n], ids [n, L], lengths [n]); all captions of one pad to the same L.

    shapes: [(tokens of a picture, its rows)], chosen by `share`; a batch holds about `tokens` tokens with its pictures'."""

    def __init__(self, tokenizer, writer, shapes, share, tokens, seed, framed=0.45, blank=0.015):
        self.file, self.writer, self.shapes, self.share = tokenizer, writer, shapes, share
        self.tokens, self.seed, self.framed, self.blank = tokens, seed, framed, blank

    def __iter__(self):
        from tokenizers import Tokenizer
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        info = torch.utils.data.get_worker_info()
        rng = random.Random(self.seed * 1000 + (info.id if info else 0))
        tok, bins = Tokenizer.from_file(self.file), {}
        while True:
            picks = []
            for _ in range(256):
                s = rng.choices(range(len(self.shapes)), self.share)[0]
                i = rng.randrange(len(self.shapes[s][1]))
                row = self.shapes[s][1][i]
                text = chat("") if rng.random() < self.blank else self.writer.caption(rng, row, self.framed if s == 0 else self.framed / 4)
                picks.append((s, i, text))
            for (s, i, _), e in zip(picks, tok.encode_batch([p[2] for p in picks], add_special_tokens=False)):
                L = -(-len(e.ids) // 32) * 32
                if L > LIMIT:
                    continue
                mine = bins.setdefault((s, L), [])
                mine.append((i, e.ids))
                n = max(2, round(self.tokens / (self.shapes[s][0] + L) / 4) * 4)
                if len(mine) == n:
                    ids = np.zeros((n, L), np.int64)
                    for r, (_, x) in enumerate(mine):
                        ids[r, :len(x)] = x
                    yield s, torch.tensor([m[0] for m in mine]), torch.from_numpy(ids), torch.tensor([len(m[1]) for m in mine])
                    bins[(s, L)] = []
