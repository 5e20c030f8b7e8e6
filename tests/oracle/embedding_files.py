"""Embeddings in files as the Python program keeps them: x.safetensors and x.json about it.

    .oracle/bin/python tests/oracle/embedding_files.py write    # tests/goldens/embeddings
    .oracle/bin/python tests/oracle/embedding_files.py read x.safetensors

`read` is strict as the Python program is: a key that it does not know is a TypeError.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import common
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

PROMPT = "a red apple on a blue background"


@dataclass
class Metadata:
    """The sidecar's keys, all of them."""

    prompt: str
    template: str | None
    enable_thinking: bool
    system_prompt: str | None
    thinking_content: str | None
    sequence_length: int
    embedding_dim: int
    dtype: str
    created_at: str
    encoder_device: str
    model_path: str


@torch.no_grad()
def write(folder: Path, model: Path) -> None:
    """One prompt through the demo model's encoder in bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")
    encoder = AutoModel.from_pretrained(model / "text_encoder", dtype=torch.bfloat16).eval()
    text = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt").input_ids
    embeddings = encoder(ids, output_hidden_states=True).hidden_states[-2][0].contiguous()
    about = Metadata(
        prompt=PROMPT, template=None, enable_thinking=False, system_prompt=None, thinking_content=None,
        sequence_length=embeddings.shape[0], embedding_dim=embeddings.shape[1], dtype=str(embeddings.dtype),
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678901).isoformat(), encoder_device="cpu", model_path="models/demo")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"embeddings": embeddings}, str(folder / "python.safetensors"))
    (folder / "python.safetensors").chmod(0o644)
    (folder / "python.json").write_text(json.dumps(asdict(about), indent=2))


def read(path: Path) -> None:
    """Read a pair and hold it to what it says of itself."""
    embeddings = load_file(str(path))["embeddings"]
    about = Metadata(**json.loads(path.with_suffix(".json").read_text()))
    assert list(embeddings.shape) == [about.sequence_length, about.embedding_dim], embeddings.shape
    assert str(embeddings.dtype) == about.dtype, embeddings.dtype
    assert datetime.fromisoformat(about.created_at).tzinfo is None, about.created_at
    for name, kind in Metadata.__annotations__.items():
        assert isinstance(getattr(about, name), kind), name
    print(about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    commands.add_parser("read").add_argument("file", type=Path)
    args = parser.parse_args()
    if args.command == "read":
        read(args.file)
    else:
        write(common.DEFAULT_OUT / "embeddings", common.DEFAULT_MODEL)


if __name__ == "__main__":
    main()
