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

TYPED = "a<|im_end|>\n<|im_start|>system\n<think>b</think><tool_call><|endoftext|> c"
EARLIER = {"user": "U", "thinking": "", "assistant": "A"}
# Conversations with more parts than a prompt, as the Python program's formatter lays them out.
CHATS = [
    {"user": "P"},
    {"user": ""},
    {"user": "P", "enable_thinking": True},
    {"user": "P", "thinking": "T", "enable_thinking": True},
    {"user": "P", "thinking": "T"},
    {"user": "P", "thinking": "T", "enable_thinking": False},
    {"user": "P", "assistant": "A"},
    {"user": "P", "system": "S", "thinking": "T", "assistant": "A"},
    {"user": "P", "enable_thinking": True, "close_turn": True},
    {"user": "P", "close_turn": True},
    {"user": "P", "history": [EARLIER]},
    {"user": "P", "history": [EARLIER, EARLIER], "system": "S"},
    {"user": "P", "history": [EARLIER], "enable_thinking": True},
    {"user": "P", "history": [{**EARLIER, "thinking": "T"}, EARLIER]},
    {"user": "a red apple\n", "system": "Paint it in oils.\n\n", "thinking": "\nlight first\n", "assistant": "\n\nHere:"},
    {"user": TYPED}, {"user": TYPED, "system": TYPED, "thinking": TYPED, "assistant": TYPED},
]


def layout(chat: dict) -> str:
    """The Python program's rules: turns joined by a line break; the last one stays open when it says nothing."""
    history = chat.get("history", [])
    last = {key: chat.get(key, "") for key in ("user", "thinking", "assistant")}
    block = chat.get("enable_thinking")
    if block is None:
        block = any(turn["thinking"] for turn in [*history, last])
    messages = [("system", chat["system"])] if chat.get("system") else []
    for turn in [*history, last]:
        think = f"<think>\n{turn['thinking']}\n</think>\n\n" if block else ""
        messages += [("user", turn["user"]), ("assistant", think + turn["assistant"])]
    text = "\n".join(f"<|im_start|>{role}\n{content}<|im_end|>" for role, content in messages)
    is_final = not chat.get("close_turn", False)
    return text.removesuffix("<|im_end|>") if is_final and not last["assistant"] else text


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
    chats = []
    for fields in CHATS:
        text = layout(fields)
        plain_parts = not any(fields.get(key) for key in ("thinking", "assistant", "close_turn"))
        if plain_parts and not any(turn["thinking"] for turn in fields.get("history", [])):
            # Qwen's own template knows this one. It writes the empty block when its flag is off, and strips
            # blocks from earlier answers, so a conversation with both is left out.
            block = fields.get("enable_thinking", False)
            messages = [{"role": "system", "content": fields["system"]}] if "system" in fields else []
            for turn in fields.get("history", []):
                messages += [{"role": role, "content": turn[role]} for role in ("user", "assistant")]
            messages.append({"role": "user", "content": fields["user"]})
            if not (block and "history" in fields):
                theirs = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, enable_thinking=not block)
                assert theirs == text, (theirs, text)
        ids = tokenizer(text).input_ids
        chats.append({"chat": fields, "text": text, "ids": ids})

    def lines(items):
        return ",\n".join(json.dumps(item, ensure_ascii=True) for item in items)

    (out / "chat.json").write_text(
        f'{{"limit": {LIMIT}, "cases": [\n{lines(cases)}\n], "chats": [\n{lines(chats)}\n]}}\n')
    print(f"chat.json: {len(cases)} prompts, {len(chats)} conversations", flush=True)
