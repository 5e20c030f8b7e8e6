"""A cache that `llm-dit pull` made is used by Python's huggingface_hub, and the other way round.

    cargo build --release
    python3 -m venv .hub && .hub/bin/pip install -r tests/hub/requirements.txt
    .hub/bin/python tests/hub/interop.py target/release/llm-dit

Both ask a hub of ours on loopback, which counts what is downloaded.
"""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = os.urandom(3_000_000)
FILES = {
    "model_index.json": b"{}",
    "transformer/config.json": b'{"a": 1}',
    "transformer/model.safetensors": LARGE,
    "tokenizer/tokenizer.json": b"[]",
}
SENT = []


def is_lfs(content):
    return len(content) > 1000


def etag(content):
    if is_lfs(content):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sibling(name, content):
    info = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
    if is_lfs(content):
        return info | {"lfs": {"sha256": etag(content), "size": len(content), "pointerSize": 130}}
    return info | {"blobId": etag(content)}


def entry(name, content):
    info = {"type": "file", "path": name, "size": len(content), "oid": etag(content)[:40]}
    if is_lfs(content):
        info["lfs"] = {"oid": etag(content), "size": len(content), "pointerSize": 130}
    return info


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length") or str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/nobody/model/tree/"):
            found = json.dumps([entry(*file) for file in FILES.items()]).encode()
            return self.answer(200, {"Content-Type": "application/json"}, found)
        if path.startswith("/api/models/nobody/model"):
            siblings = [sibling(*file) for file in FILES.items()]
            info = {"id": "nobody/model", "modelId": "nobody/model", "sha": COMMIT, "siblings": siblings,
                    "private": False, "tags": [], "downloads": 0, "likes": 0}
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(info).encode())
        name = path.split("/", 5)[-1]
        if path.startswith("/nobody/model/resolve/") and name in FILES:
            content = FILES[name]
            if self.command == "GET":
                SENT.append(name)
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(content)}"'}
            return self.answer(200, headers, content)
        return self.answer(404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    clean = kept | {"HF_ENDPOINT": url, "NO_PROXY": "127.0.0.1"}

    def ours(home, *args):
        env = clean | {"HF_HOME": str(home)}
        ran = subprocess.run([program, *args], env=env, check=True, capture_output=True, text=True)
        return pathlib.Path(ran.stdout.strip().splitlines()[-1])

    def theirs(home, code):
        env = clean | {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        code = "import huggingface_hub as h\nprint(" + code + ")"
        ran = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
        return pathlib.Path(ran.stdout.strip().splitlines()[-1])

    def check(folder):
        for name, content in FILES.items():
            assert (folder / name).read_bytes() == content, name

    def fresh():
        return pathlib.Path(tempfile.mkdtemp())

    home = fresh()
    made = ours(home, "pull", "nobody/model", "--quiet")
    check(made)
    count = len(SENT)
    assert count == len(FILES), SENT
    assert theirs(home, "h.snapshot_download('nobody/model', local_files_only=True)") == made
    assert theirs(home, "h.snapshot_download('nobody/model')") == made
    file = theirs(home, "h.hf_hub_download('nobody/model', 'transformer/model.safetensors')")
    assert file == made / "transformer/model.safetensors", file
    assert len(SENT) == count, f"Python downloaded again: {SENT[count:]}"
    scanned = theirs(home, "h.scan_cache_dir().warnings, [r.repo_id for r in h.scan_cache_dir().repos]")
    assert str(scanned) == "[] ['nobody/model']", scanned
    print("ours is used by Python: no download, no warnings")

    home = fresh()
    made = theirs(home, "h.snapshot_download('nobody/model')")
    count = len(SENT)
    assert ours(home, "pull", "nobody/model", "--quiet") == made
    assert len(SENT) == count, f"we downloaded again: {SENT[count:]}"
    env = clean | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    listed = subprocess.run([program, "list", "--json"], env=env, check=True, capture_output=True).stdout
    (repo,) = json.loads(listed)
    assert repo["snapshots"][0]["commit"] == COMMIT and len(repo["snapshots"][0]["files"]) == len(FILES)
    assert ours(home, "pull", "nobody/model", "--quiet", "--hf-hub-offline") == made
    check(made)
    print("Python's is used by ours: no download")


if __name__ == "__main__":
    main()
