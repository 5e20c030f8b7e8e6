#!/usr/bin/env python3
"""Makes qwen3-ids.json: token ids of odd texts, by the library `tokenizers` with the released file.

Usage: ids.py TOKENIZER.JSON
"""

import hashlib
import json
import pathlib
import sys

import tokenizers

TEXTS = [
    "",
    " ",
    "a red apple on a blue background",
    "  two  spaces\tand a tab \n\n new lines\r\n\r\nend ",
    "don't, I'LL, we've; it's 12345 and 3.14159e-10!",
    "Ein Füchslein im Schnee, größer als die Straße",
    "A sign that reads \"GRÜẞE\" in neon",
    "一只狐狸在雪地里，写着“你好，世界！”的牌子",
    "日本語のテキストとカタカナ、ｆｕｌｌｗｉｄｔｈ",
    "한국어 문장입니다",
    "Привет, мир! Ёлка",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "e\u0301 composed from two, \u00e9 one; \u212b \ufb01 ligature",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 emoji",
    "\u200bzero\u200dwidth\ufeff mark",
    "code: for (i = 0; i < n; ++i) { x[i] += 1; } // done",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "https://example.com/a?b=c&d=%20#e",
    "\x00\x01 control \x7f characters",
    "<|im_start|>user\nhello<|im_end|>\n<think>\n\n</think>",
    "<|endoftext|><tool_call><|vision_start|>",
]


def main() -> None:
    path = sys.argv[1]
    tokenizer = tokenizers.Tokenizer.from_file(path)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    lines = "".join(f"{token}\n" for _, token in sorted((id, t) for t, id in vocab.items()))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    out = {
        "tokenizers": tokenizers.__version__,
        "size": len(vocab),
        "vocabulary_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "texts": [{"text": text, "ids": encode(text)} for text in TEXTS],
    }
    here = pathlib.Path(__file__).parent
    texts = ",\n".join(json.dumps(one) for one in out.pop("texts"))
    head = json.dumps(out)[:-1]
    (here / "qwen3-ids.json").write_text(f'{head}, "texts": [\n{texts}\n]}}\n')


if __name__ == "__main__":
    main()
