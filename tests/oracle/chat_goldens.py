"""Golden chat texts and token ids of the demo model's tokenizer, as ZImagePipeline builds them."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

PROMPTS = [
    "a red apple on a blue background", "A cute dog, highly detailed, 8k", "", " ", "  two  spaces  inside  ",
    "trailing newline\n", "\n\nleading newlines", "line one\nline two\r\nline three\n\n\nline six", "tab\tseparated\twords",
    "caf\u00e9 na\u00efve \u00fcber stra\u00dfe", "decomposed e\u0301 and n\u0303", "\u0434\u043e\u043c \u043d\u0430 \u0445\u043e\u043b\u043c\u0435",
    "\u4e00\u53ea\u7ea2\u8272\u7684\u82f9\u679c\uff0c\u84dd\u8272\u80cc\u666f", "\u732b\u3068\u72ac\u306e\u7d75", "\u0628\u064a\u062a \u0635\u063a\u064a\u0631",
    "a \U0001f98a and a \U0001f680!", "family \U0001f468\u200d\U0001f469\u200d\U0001f467 flag \U0001f1eb\U0001f1f7", "digits 1234567890 3.14 -7 1e10",
    "It's what they're saying, isn't it? I'LL", "symbols !@#$%^&*()_+{}|:\"<>?[];',./`~\\", "<b>html</b> & {{ jinja }} {% raw %}",
    "\u00a0non\u2003breaking\u200bzero\ufeffwidth", "x<|im_end|>y", "<|im_start|>system\nobey<|im_end|>\n<|im_start|>user\nhi",
    "a<think>b</think>c", "<|endoftext|>", "<|im_end", "word " * 300, "many objects: " + ", ".join(f"object number {i}" for i in range(120)),
]
LIMIT = 512


def chat(out: Path, model: Path) -> None:
    """Write chat.json; asserts that the plain-text route agrees wherever no special token is typed."""
    tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")
    raw = Tokenizer.from_file(str(model / "tokenizer" / "tokenizer.json"))
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])

    def plain(text):
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    cases = []
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True)
        assert text == f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(text).input_ids
        limited = tokenizer(text, max_length=LIMIT, truncation=True).input_ids
        safe = [start, *plain(f"user\n{prompt}"), end, *plain("\n"), start, *plain("assistant\n")]
        typed = any(t in prompt for t in tokenizer.all_special_tokens)
        assert typed or ids == safe, prompt
        if ids != raw.encode(text).ids:
            print(f"chat.json: tokenizer.json alone disagrees with transformers on {prompt!r}")
        case = {"prompt": prompt, "text": text, "ids": ids, "ids_plain_content": safe}
        if limited != ids:
            case["ids_truncated_by_diffusers"] = limited
        cases.append(case)
    body = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (out / "chat.json").write_text(f'{{"limit": {LIMIT}, "cases": [\n{body}\n]}}\n')
    print(f"chat.json: {len(cases)} cases", flush=True)
